"""Pre-training of the estimator, a small network that estimates the interaction from a model's similarities."""

import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.data.source import Source
from hbi_jax.fields import ConfigError
from hbi_jax.models.hbi import HBI
from hbi_jax.pretrained import Pretrained, save
from hbi_jax.report.report import Column, Picture, Table, TableRow
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.estimator.evaluator import InteractionEvaluator, Pairs
from hbi_jax.tasks.estimator.metrics import Agreement
from hbi_jax.tasks.estimator.objective import estimator_loss
from hbi_jax.tasks.gallery import GalleryEncoder, Program
from hbi_jax.tasks.task import Results, Task, init_model
from hbi_jax.tasks.teacher import computed_teacher
from hbi_jax.train.step import LossFn
from hbi_jax.types import finest

PROTOCOL = (
    "Only matched pairs are compared. The reference is the exact interaction in closed form, times "
    "config.loss.interaction_scale.",
    "RMSE and correlation are computed over the real cells of all pairs together.",
    "Top-1: how often the best frame of a word is the best frame of the exact interaction.",
)


class EstimatorTask(Task):
    """An `InteractionNet` on the similarities of a frozen HBI model, which `config.init` names."""

    name = "estimator"

    def __init__(self, config: Config, mesh: Mesh, workdir: epath.Path):
        super().__init__(config, mesh, workdir)
        self.model = HBI(config.model)
        self.net = InteractionNet(config.estimator.kind, config.estimator.num_features)
        self.evaluator = InteractionEvaluator(
            GalleryEncoder(self.model, mesh, config.eval.batch_size),
            self.net,
            config.loss.interaction_scale,
            config.estimator.num_samples,
            config.model.padding,
        )

    def init_params(self) -> PyTree:  # noqa: D102
        hbi = init_model(self.model, self.config)["params"]
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        return {"params": {"hbi": hbi, "estimator": self.net.init(key, jnp.zeros((1, 1, 1)))["params"]}}

    def load_init(self, params: PyTree) -> PyTree:
        """Loads the frozen model that computes the similarities from `config.init`."""
        if not self.config.init:
            raise ConfigError(
                "config.init is empty: wanted the model whose similarities the estimator learns from; give a work "
                "folder of retrieval, or a folder of `python -m hbi_jax.pretrained convert`"
            )
        both = params["params"]
        hbi = super().load_init({"params": both["hbi"]})["params"]
        return {"params": {**both, "hbi": hbi}}

    def load_converted(self, params: PyTree, path: str) -> PyTree:
        """Loads the network from `path`, and the model that computes its similarities from `config.init`."""
        both = self.load_init(params)["params"]
        net = super().load_converted({"params": both["estimator"]}, path)["params"]
        return {"params": {**both, "estimator": net}}

    def loss_fn(self) -> LossFn:  # noqa: D102
        settings = self.config.estimator
        labels = computed_teacher(settings.labels, self.config.loss.interaction_scale, settings.num_samples)
        return functools.partial(estimator_loss, self.model, self.net, labels)

    def validate(self, params: PyTree, source: Source) -> dict[str, float]:  # noqa: D102
        found = [pairs.agreement(pairs.estimate) for pairs in self._pairs(params, source).values()]
        return {field: float(np.mean([getattr(level, field) for level in found])) for field in Agreement._fields}

    def evaluate(self, params: PyTree, label: str) -> Results:  # noqa: D102
        # Drawing libraries take long to load, and most commands draw nothing.
        from hbi_jax.tasks.estimator.pictures import plot_estimates

        tables, pictures, dataset, unreadable = [], [], {}, {}
        for name in self.dataset.galleries:
            source = self.source(name)
            levels = self._pairs(params, source)
            tables.append(self._table(f"Gallery {name!r}", levels, label))
            if not pictures and jax.process_index() == 0:
                path = self.workdir / "pictures" / "estimator.png"
                estimates = {
                    "estimated, scaled": [pairs.estimate for pairs in levels.values()],
                    "sampled, scaled": [pairs.sample for pairs in levels.values()],
                }
                exact, cells = zip(*((pairs.exact, pairs.cells) for pairs in levels.values()), strict=True)
                plot_estimates(list(levels), exact, estimates, cells, path)
                pictures = [
                    Picture(str(path), f"Estimated and sampled against exact interactions of gallery {name!r}.")
                ]
            dataset |= {f"{name} pairs": len(finest(levels).exact)}
            unreadable |= source.unreadable
        if jax.process_index() == 0:
            fields = {"kind": self.net.kind, "num_features": self.net.num_features}
            net = Pretrained("estimator", fields, {"params": params["params"]["estimator"]})
            save(self.workdir / "estimator", net, overwrite=True)
        return Results(dataset, unreadable, tables=tables, pictures=pictures, protocol=PROTOCOL)

    def evaluation_programs(self) -> dict[str, Program]:  # noqa: D102
        encoder, hbi = self.evaluator.encoder, {"params": self.abstract_params()["params"]["hbi"]}
        return encoder.programs(hbi, self.abstract_rows(encoder.batch_size))

    def _pairs(self, params: PyTree, source: Source) -> OrderedDict[str, Pairs]:
        both = params["params"]
        return self.evaluator.compare(
            {"params": both["hbi"]}, {"params": both["estimator"]}, source, self.config.data.num_threads
        )

    def _table(self, title: str, levels: OrderedDict[str, Pairs], label: str) -> Table:
        """Tabulates the agreement of each level and method."""
        rows, errors = [], []
        for level, pairs in levels.items():
            methods = {
                f"{self.config.name}, {label}": pairs.estimate,
                f"sampled, {self.config.estimator.num_samples:,} coalitions": pairs.sample,
                "always zero": np.zeros_like(pairs.exact),
            }
            for method, values in methods.items():
                found = pairs.agreement(values)
                correlation = found.correlation if np.isfinite(found.correlation) else None
                rows.append(TableRow(f"{level}: {method}", (found.rmse, correlation, found.top1)))
                errors.append(found)
        own = errors[0]
        headline = (
            f"**{title}**: at level {next(iter(levels))!r} the estimator errs by **{own.rmse:.3g}** (root mean square; "
            f"always answering zero: {errors[2].rmse:.3g}), correlates by **{own.correlation:.3f}** with the exact "
            f"interaction, and finds the best frame of **{own.top1:.1f} %** of the words."
        )
        return Table(title, headline, [Column("RMSE"), Column("correlation"), Column("top-1, %")], rows)
