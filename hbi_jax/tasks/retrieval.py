"""Text-video retrieval: contrastive, interaction and distillation losses; ranks over galleries."""

import dataclasses
import functools
import logging

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict

from hbi_jax import build
from hbi_jax.config import ConfigError
from hbi_jax.data import shapes
from hbi_jax.data.datasets import Split
from hbi_jax.data.source import Source
from hbi_jax.data.video import sample_indices
from hbi_jax.evaluate import report as reports
from hbi_jax.evaluate.pictures import WordTruth, draw_interactions
from hbi_jax.evaluate.retrieval import Gallery, gallery_metrics
from hbi_jax.metrics import Directed, chance_metrics, dual_softmax, group_chance, querybank
from hbi_jax.metrics.retrieval import RSUM_RECALLS
from hbi_jax.tasks.task import Results, Task
from hbi_jax.train.checkpoint import CheckpointError
from hbi_jax.train.step import LossFn

_log = logging.getLogger(__name__)

PROTOCOL = (
    "A rank is 1 + the number of better candidates + the number of equal ones: ties count against the method.",
    "Of a video with several captions each is a query; video to text it counts by the best of them, as one candidate.",
    "Rsum is the sum of R@1, R@5 and R@10 of both directions.",
    "In-group accuracy: how often the right video beats the near-twins of its group, which share its entities.",
)
# What a normalised row is, by what its name holds.
NORMALIZATIONS = {
    "dual softmax": "Dual softmax looks at the whole test set: a similarity is multiplied by its softmax over all test "
    "queries of the direction, so that what one query finds depends on the others.",
    "querybank": "Querybank (QB-Norm, dynamic inverted softmax) looks at training queries: similarities to a video are "
    "divided by how close it is to training texts, those to a text by how close it is to training videos.",
}


class RetrievalTask(Task):
    """HBI for retrieval."""

    name = "retrieval"

    def __init__(self, config: ConfigDict, mesh: Mesh, workdir: epath.Path):
        super().__init__(config, mesh, workdir)
        self.model = build.model(config)
        self.evaluator = build.retrieval_evaluator(self.model, config, mesh)

    def init_params(self) -> PyTree:  # noqa: D102
        return build.init_params(self.model, self.config)

    def loss_fn(self) -> LossFn:  # noqa: D102
        return build.loss_fn(self.model, self.config)

    def validate(self, params: PyTree, source: Source) -> dict[str, float]:  # noqa: D102
        gallery = self.evaluator.encode(params, source, self.config.data.num_threads)
        metrics = gallery_metrics(self.evaluator.similarity(params, gallery), gallery)
        for direction in ("t2v", "v2t"):
            metrics |= {f"{direction}/{name}": value for name, value in metrics.pop(direction).items()}
        return metrics

    def evaluate(self, params: PyTree, label: str) -> Results:  # noqa: D102
        config = self.config
        baseline = self._baseline() if config.eval.baselines else None
        bank = self._querybank(params) if "querybank" in config.eval.normalize else None
        galleries, dataset, unreadable, pictures = [], {}, {}, []
        for name in self.galleries:
            source = self.source(name)
            encoded = self.evaluator.encode(params, source, config.data.num_threads)
            plain = self.evaluator.similarity(params, encoded)
            own = f"{config.name}, {label}"
            normalized = self._normalized(params, encoded, plain, bank)
            scores = {own: plain, **{f"{own}, {how}": directed for how, directed in normalized.items()}}
            if config.eval.baselines:
                scores["its towers, mean-pooled"] = self.evaluator.similarity(params, encoded, pooled=True)
            if baseline is not None:
                method = "before training" if config.init else "untrained"
                scores[method] = self.evaluator.similarity(
                    baseline, self.evaluator.encode(baseline, source, config.data.num_threads)
                )
            rows = []
            for method, similarity in scores.items():
                metrics = _metrics(similarity, encoded)
                rows.append(reports.Row(method, metrics, metrics.pop("group_accuracy", None)))
            groups, num_videos = encoded.groups, len(encoded.video.pooled)
            galleries.append(
                reports.Gallery(
                    name=f"gallery {name!r}",
                    texts=len(encoded.record_index),
                    videos=num_videos,
                    chance=chance_metrics(num_videos),
                    rows=rows,
                    group_chance=None if groups is None else group_chance(encoded.text_to_video, groups),
                )
            )
            dataset |= {f"{name} texts": len(source.split.records), f"{name} videos": source.split.num_videos}
            unreadable |= source.unreadable
            if not pictures and jax.process_index() == 0:
                pictures = draw_interactions(
                    encoded,
                    source,
                    build.tokenizer(config),
                    # A pooled model has one token a side: no words and frames to draw.
                    0 if config.model.pooled else config.eval.num_pictures,
                    self.workdir / "pictures",
                    self._word_truths() if config.data.render else None,
                )
        explained = [said for how, said in NORMALIZATIONS.items() if how.replace(" ", "_") in config.eval.normalize]
        protocol = (*PROTOCOL, *explained)
        return Results(dataset, unreadable, galleries=galleries, pictures=pictures, protocol=protocol)

    def _querybank(self, params: PyTree) -> Gallery:
        """Training texts, evenly spread over the split, with their videos."""
        split = build.split(self.config, "train", str(self.workdir))
        few = min(self.config.eval.querybank_size, len(split.records))
        chosen = np.linspace(0, len(split.records) - 1, few).astype(int)
        bank = Split("querybank", tuple(split.records[row] for row in chosen))
        return self.evaluator.encode(params, build.source(self.config, bank), self.config.data.num_threads)

    def _normalized(
        self, params: PyTree, gallery: Gallery, similarity: Float[np.ndarray, "a b"], bank: Gallery | None
    ) -> dict[str, Directed]:
        """The similarities of a gallery by every way of `config.eval.normalize`."""
        found, settings = {}, self.config.eval
        if "dual_softmax" in settings.normalize:
            found["dual softmax (uses all test queries)"] = dual_softmax(similarity, settings.dual_softmax_temperature)
        if bank is not None:
            texts = dataclasses.replace(bank, video=gallery.video)
            videos = dataclasses.replace(gallery, video=bank.video)
            name = f"querybank (uses {len(bank.record_index):,} training texts and their videos)"
            found[name] = querybank(
                similarity,
                self.evaluator.similarity(params, texts),
                self.evaluator.similarity(params, videos),
                settings.querybank_temperature,
            )
        return found

    def _baseline(self) -> PyTree | None:
        """What training started from; None, and a word, where that cannot be had any more."""
        try:
            return self.placed(self.load_init)
        except (ConfigError, CheckpointError) as error:
            _log.warning("the report has no row of the model before training: %s", error)
            return None

    def _word_truths(self) -> dict[str, WordTruth]:
        """Which of the sampled frames each word of the embedded world's captions speaks of."""
        data, fps = self.config.data, float(build.world(self.config).fps)
        sample = functools.partial(
            sample_indices, fps=fps, max_frames=data.num_frames, frames_per_second=data.frames_per_second
        )
        out = {}
        for video_id, truth in shapes.load_ground_truth(
            build.folder(self.config, "annotations", str(self.workdir))
        ).items():
            frames = truth.word_frames()
            out[video_id] = WordTruth([word.text for word in truth.words], frames[:, sample(frames.shape[1])])
        return out


def _metrics(similarity: Float[np.ndarray, "a b"] | Directed, gallery: Gallery) -> dict:
    """As `gallery_metrics`, of scores that differ between the directions, too."""
    if not isinstance(similarity, Directed):
        return gallery_metrics(similarity, gallery)
    found = gallery_metrics(similarity.t2v, gallery)
    found["v2t"] = gallery_metrics(similarity.v2t, gallery)["v2t"]
    return found | {"Rsum": sum(found[way][name] for way in ("t2v", "v2t") for name in RSUM_RECALLS)}
