"""The effect of each departure from the published code: `python -m benchmarks.published_differences`.

Starts from the configuration that reproduces the published values of tests/golden, and sets one switch at a time to
this library's default. Writes published_differences.json. Takes about two minutes and 4 GB of memory.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from benchmarks import harness
from hbi_jax.models.answer import AnswerHBI
from hbi_jax.models.hbi import HBI
from hbi_jax.tasks.answers.batch import AnswerBatch
from hbi_jax.tasks.answers.config import AnswerLossConfig
from hbi_jax.tasks.answers.objective import answer_loss
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.config import AlignmentLossConfig, OptimizerConfig
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.train.teacher import estimator_teacher, exact_teacher
from tests.models.published import FOLDER, Golden, load

LOSS = {
    "interaction_weight": 1.0,
    "distillation_weight": 2.0,
    "mask_same_video": False,
    "divergence": "published",
}
ANSWERS = {"distil": "answers", "alignment_weight": 0.5, "answer_weight": 1.0}
# By switch: the changes to the model, to the loss, and to the teacher.
RETRIEVAL = {
    "model.padding": ({"padding": "masked"}, {}, None),
    "loss.divergence": ({}, {"divergence": "paper"}, None),
    "loss.distillation_weight": ({}, {"distillation_weight": 1.0}, None),
    "loss.mask_same_video": ({}, {"mask_same_video": True}, None),
    "loss.teacher": ({}, {}, exact_teacher(1000.0)),
    "loss.divergence and loss.teacher": ({}, {"divergence": "paper"}, exact_teacher(1000.0)),
}
QUESTIONS = {
    "model.padding": RETRIEVAL["model.padding"],
    "loss.divergence": RETRIEVAL["loss.divergence"],
    "loss.distil": ({}, {"distil": "similarity"}, None),
}


def compute(golden: Golden, model: dict, loss: dict, teacher=None) -> tuple:
    """Returns the similarities or answer logits of every level, the loss, and its gradient."""
    config = dataclasses.replace(golden.config, **model)
    if teacher is None:
        estimator = golden.weights.estimator
        teacher = estimator_teacher(estimator.model, estimator.params, config.padding)
    # Two captions share a video, so that the treatment of such negatives matters.
    batch = golden.batch._replace(video_index=jnp.array([0, 0, 1, 2]))
    if golden.weights.kind == "hbi":
        hbi = HBI(config)
        function = functools.partial(retrieval_loss, hbi, AlignmentLossConfig(**LOSS | loss), teacher)
    else:
        hbi = AnswerHBI(config, num_answers=golden.weights.config["num_answers"], dropout_rate=0.0)
        function = functools.partial(answer_loss, hbi, AnswerLossConfig(**LOSS | ANSWERS | loss), teacher)
        batch = AnswerBatch(batch, jnp.asarray(golden.arrays["labels"], jnp.int32))

    @jax.jit
    def run(params):
        out = hbi.apply(params, golden.batch)
        scores = {name: alignment.similarity for name, alignment in out.items()} if isinstance(out, dict) else out[1]
        (total, _), gradient = jax.value_and_grad(function, has_aux=True)(params, batch, jax.random.key(0))
        return scores, total, gradient

    return run(golden.weights.params)


def relative(got, wanted) -> float:
    """Returns the norm of the difference relative to the norm of `wanted`."""
    return float(optax.tree.norm(optax.tree.sub(got, wanted)) / optax.tree.norm(wanted))


def effects(name: str, switches: dict) -> list[dict]:
    """Returns one row per switch."""
    golden, rows = load(name), []
    scores, total, gradient = compute(golden, {}, {})
    for switch, changes in switches.items():
        others, other_total, other_gradient = compute(golden, *changes)
        rows.append(
            {
                "switch": switch,
                "score": {
                    level: float(jnp.abs(others[level] - scores[level]).max() / jnp.std(scores[level]))
                    for level in scores
                },
                "loss": abs(float(other_total / total) - 1),
                "gradient": relative(other_gradient, gradient),
            }
        )
        print(rows[-1], file=sys.stderr)
    return rows


def optimizers() -> list[dict]:
    """Applies the recorded gradients with the published optimizer and with ours, and compares the parameters."""
    with np.load(FOLDER / "bert_adam.npz") as file:
        arrays = dict(file)
    names = {"head.w": ("header", "kernel"), "head.bias": ("header", "bias"), "ln.LayerNorm.weight": ("norm", "scale")}

    def tree(kind: str, step: int) -> dict:
        leaves = {path: arrays[f"{kind}.{name}"][step] for name, path in names.items()}
        return {"params": unflatten_dict(leaves)}

    def moved(**changes) -> dict:
        config = OptimizerConfig(
            **{
                "learning_rate": 1e-4,
                "clip_learning_rate": 1e-7,
                "warmup_rate": 0.1,
                "weight_decay": 0.2,
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "clip_norm": 1.0,
                "frozen": (),
                "max_logit_scale": 100.0,
                "name": "bert_adam",
                **changes,
            }
        )
        params = first = tree("param", 0)
        tx = make_optimizer(config, first, 10)
        state, update = tx.init(first), jax.jit(tx.update)
        for step in range(10):
            updates, state = update(tree("grad", step), state, params)
            params = optax.apply_updates(params, updates)
        return optax.tree.sub(params, first)

    published = moved()
    return [{"switch": "optimizer.name", "movement": relative(moved(name="adamw"), published), "steps": 10}]


def main() -> None:
    """Measures and writes the JSON."""
    out = harness.parse_arguments(__doc__)
    results = {
        "retrieval": effects("hbi_tiny", RETRIEVAL),
        "answers": effects("hbi_qa_tiny", QUESTIONS),
        "optimizer": optimizers(),
    }
    print(harness.write(out, "published_differences", results))


if __name__ == "__main__":
    main()
