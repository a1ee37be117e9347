"""The fields of task=estimator: `config.estimator`."""

import dataclasses
from typing import Literal

from hbi_jax.choices import EstimatorKind
from hbi_jax.fields import field

BEST_METRICS = ("correlation", "top1")


@dataclasses.dataclass(frozen=True)
class EstimatorConfig:
    """The network and its labels."""

    kind: EstimatorKind = field(
        "cnn_sa", "Kind of the network that task=estimator trains; the choices are those of model.header except none."
    )
    num_features: int = field(64, "Width of the network.", at_least=1)
    labels: Literal["exact", "sampled"] = field(
        "exact", "The interaction that the network is trained to estimate: closed form or Monte Carlo."
    )
    num_samples: int = field(
        1000, "Coalitions per pair, for sampled labels and for the sampling baseline of the report.", at_least=2
    )
