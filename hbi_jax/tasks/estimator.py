"""Pre-training of the estimator: a small network learns to imitate the interaction of a model's own similarities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from hbi_jax import build
from hbi_jax.config import ConfigError
from hbi_jax.data.source import Source
from hbi_jax.evaluate.interaction import InteractionEvaluator, Pairs
from hbi_jax.evaluate.report import Picture, Table
from hbi_jax.metrics import Agreement
from hbi_jax.pretrained import Pretrained, save
from hbi_jax.tasks.task import Results, Task
from hbi_jax.train.estimator import estimator_loss
from hbi_jax.train.step import LossFn
from hbi_jax.visualize.estimator import plot_estimates

PROTOCOL = (
    "Matched pairs only; all figures are against the exact interaction, in closed form, times "
    "config.loss.interaction_scale.",
    "RMSE and correlation are over the real cells of all pairs together.",
    "Top-1: how often the best frame of a word is the exact interaction's.",
)


class EstimatorTask(Task):
    """An `InteractionNet` on the similarities of a frozen HBI model, that of `config.init`."""

    name = "estimator"

    def __init__(self, config: ConfigDict, mesh: Mesh, workdir: epath.Path):
        super().__init__(config, mesh, workdir)
        self.model, self.net = build.model(config), build.estimator(config)
        self.evaluator = InteractionEvaluator(
            build.retrieval_evaluator(self.model, config, mesh),
            self.net,
            config.loss.interaction_scale,
            config.estimator.num_samples,
            config.model.padding,
        )
        self.levels = [level[0] for level in config.model.levels]

    def init_params(self) -> PyTree:  # noqa: D102
        hbi = build.init_params(self.model, self.config)["params"]
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        return {"params": {"hbi": hbi, "estimator": self.net.init(key, jnp.zeros((1, 1, 1)))["params"]}}

    def load_init(self, params: PyTree) -> PyTree:
        """What `config.init` names is the model whose similarities the network sees."""
        if not self.config.init:
            raise ConfigError(
                "config.init is empty: wanted the model whose similarities the estimator shall learn from; give a work "
                "folder of retrieval, or a folder of `python -m hbi_jax.pretrained convert`"
            )
        both = params["params"]
        hbi = super().load_init({"params": both["hbi"]})["params"]
        return {"params": {**both, "hbi": hbi}}

    def load_converted(self, params: PyTree, path: str) -> PyTree:
        """The network alone: the similarities that it is measured on are those of `config.init`."""
        both = self.load_init(params)["params"]
        net = super().load_converted({"params": both["estimator"]}, path)["params"]
        return {"params": {**both, "estimator": net}}

    def loss_fn(self) -> LossFn:  # noqa: D102
        return functools.partial(estimator_loss, self.model, self.net, build.labels(self.config))

    def validate(self, params: PyTree, source: Source) -> dict[str, float]:  # noqa: D102
        found = [pairs.agreement(pairs.estimate) for pairs in self._pairs(params, source)]
        return {field: float(np.mean([getattr(level, field) for level in found])) for field in Agreement._fields}

    def evaluate(self, params: PyTree, label: str) -> Results:  # noqa: D102
        tables, pictures, dataset, unreadable = [], [], {}, {}
        for name in self.galleries:
            source = self.source(name)
            levels = self._pairs(params, source)
            tables.append(self._table(f"Gallery {name!r}", levels, label))
            if not pictures and jax.process_index() == 0:
                path = self.workdir / "pictures" / "estimator.png"
                estimates = {
                    "estimated, scaled": [pairs.estimate for pairs in levels],
                    "sampled, scaled": [pairs.sample for pairs in levels],
                }
                exact, cells = [pairs.exact for pairs in levels], [pairs.cells for pairs in levels]
                plot_estimates(self.levels, exact, estimates, cells, path)
                pictures = [
                    Picture(str(path), f"Estimated and sampled against exact interactions of gallery {name!r}.")
                ]
            dataset |= {f"{name} pairs": len(levels[0].exact)}
            unreadable |= source.unreadable
        if jax.process_index() == 0:
            fields = {"kind": self.net.kind, "num_features": self.net.num_features}
            net = Pretrained("estimator", fields, {"params": params["params"]["estimator"]})
            save(self.workdir / "estimator", net, overwrite=True)
        return Results(dataset, unreadable, tables=tables, pictures=pictures, protocol=PROTOCOL)

    def _pairs(self, params: PyTree, source: Source) -> list[Pairs]:
        both = params["params"]
        return self.evaluator.compare(
            {"params": both["hbi"]}, {"params": both["estimator"]}, source, self.config.data.num_threads
        )

    def _table(self, title: str, levels: list[Pairs], label: str) -> Table:
        """A row for each level and way to know the interaction."""
        rows, errors = [], []
        for level, pairs in zip(self.levels, levels, strict=True):
            methods = {
                f"{self.config.name}, {label}": pairs.estimate,
                f"sampled, {self.config.estimator.num_samples:,} coalitions": pairs.sample,
                "always zero": np.zeros_like(pairs.exact),
            }
            for method, values in methods.items():
                found = pairs.agreement(values)
                correlation = found.correlation if np.isfinite(found.correlation) else None
                rows.append((f"{level}: {method}", (found.rmse, correlation, found.top1)))
                errors.append(found)
        own = errors[0]
        headline = (
            f"**{title}**: at level {self.levels[0]!r} the estimator errs by **{own.rmse:.3g}** (root mean square; "
            f"always answering zero: {errors[2].rmse:.3g}), correlates by **{own.correlation:.3f}** with the exact "
            f"interaction, and finds the best frame of **{own.top1:.1f} %** of the words."
        )
        return Table(title, headline, ("RMSE", "correlation", "top-1, %"), rows)
