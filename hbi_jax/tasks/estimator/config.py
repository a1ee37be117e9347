"""The fields of task=estimator: `config.estimator`."""

import dataclasses
from typing import Literal

from hbi_jax.choices import EstimatorKind
from hbi_jax.fields import field

BEST_METRICS = ("correlation", "top1")


@dataclasses.dataclass(frozen=True)
class EstimatorConfig:
    """The network, and what it learns to imitate."""

    kind: EstimatorKind = field("cnn_sa", "The network that task=estimator trains, one of the kinds of model.header.")
    num_features: int = field(64, "Width of the network.", at_least=1)
    labels: Literal["exact", "sampled"] = field(
        "exact", "The interaction that it imitates: closed form or Monte Carlo."
    )
    num_samples: int = field(
        1000, "Coalitions a pair of sampled labels, and of the sampling that the report compares with.", at_least=2
    )
