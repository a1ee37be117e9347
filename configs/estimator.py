"""Pre-training of the Banzhaf estimator on the similarities of a model and the data of another configuration.

Command:  python -m hbi_jax.main --config=configs/estimator.py:quickstart --workdir=runs/estimator \
              --config.init=runs/quickstart
          To train with it afterwards: --config.loss.teacher=estimator --config.loss.estimator=runs/estimator
Hardware: that of the configuration after the colon (default: msrvtt); the model itself is not trained
Expected: see docs/performance.md for the embedded data set. The exact teacher, the default everywhere, needs no
          estimator; this configuration repeats the papers' method and measures its cost.
"""

import pathlib
import runpy


def get_config(base: str = "msrvtt"):
    """Returns the configuration `base` with the estimator as its task."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name(f"{base}.py")))["get_config"]()
    config.name = "estimator"
    config.task = "estimator"
    config.eval.best_metric = "correlation"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.frozen = ("^params/hbi/",)
    config.data.cache_features = False
    # The trained model has to be named.
    config.init = ""
    if base.startswith("quickstart"):
        config.train.num_steps = 400
        config.train.eval_every = config.train.checkpoint_every = 100
    return config
