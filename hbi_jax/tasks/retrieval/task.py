"""Text-video retrieval, trained with the alignment losses and evaluated by ranks over galleries."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, Int, PyTree

from hbi_jax.data import shapes
from hbi_jax.data.datasets import Split
from hbi_jax.data.source import Source
from hbi_jax.data.video import middle, sample_indices
from hbi_jax.fields import ConfigError
from hbi_jax.metrics import Directed, chance_metrics, dual_softmax, group_chance, querybank
from hbi_jax.models.hbi import HBI
from hbi_jax.models.methods import make_model
from hbi_jax.report import report as reports
from hbi_jax.tasks.agreement import check_same_data
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.gallery import Gallery, Program
from hbi_jax.tasks.retrieval import patches, pointing, regions, truths
from hbi_jax.tasks.retrieval.evaluator import RetrievalEvaluator
from hbi_jax.tasks.retrieval.games import HEADER, Estimate, Game, play
from hbi_jax.tasks.retrieval.metrics import gallery_metrics
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.tasks.retrieval.patches import PatchGame, play_patches
from hbi_jax.tasks.retrieval.pointing import Pointed
from hbi_jax.tasks.retrieval.projection import Embedded
from hbi_jax.tasks.retrieval.regions import Regions
from hbi_jax.tasks.task import Results, Task, init_model
from hbi_jax.tasks.teacher import make_teacher
from hbi_jax.train.checkpoint import CheckpointError
from hbi_jax.train.step import LossFn
from hbi_jax.train.teacher import Teacher, sampled_teacher
from hbi_jax.types import Batch

_log = logging.getLogger(__name__)

# Coalitions of the sampled interactions that are compared with the exact ones.
_SAMPLES = (100, 1000)
# Pairs whose tokens are drawn as points.
_EMBEDDED = 10
PROTOCOL = (
    "A rank is 1 + the number of better candidates + the number of equal ones: ties count against the method.",
    "Every caption of a video is a query. For video-to-text retrieval a video's captions count as one candidate, "
    "scored by the best of them.",
    "Rsum is the sum of R@1, R@5 and R@10 of both directions.",
    "In-group accuracy: how often the right video beats the near-twins of its group, which share its entities.",
)


class _Scored(NamedTuple):
    """A method with its similarities of all texts and videos of a gallery, and a sentence that explains it."""

    method: str
    similarity: Float[np.ndarray, "a b"] | Directed
    note: str = ""


class RetrievalTask(Task):
    """Retrieval with the model that `config.model.method` names."""

    name = "retrieval"

    def __init__(self, config: Config, mesh: Mesh, workdir: epath.Path):
        super().__init__(config, mesh, workdir)
        self.model = make_model(config.model)
        self.evaluator = make_evaluator(self.model, config, mesh)
        # Read at once, so that errors surface before training.
        path = pathlib.Path(config.eval.word_times).expanduser()
        known = config.eval.word_times and not config.data.render
        self._word_times = truths.read_word_times(path) if known else {}

    @classmethod
    def without_data(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> tuple["RetrievalTask", list[str]]:  # noqa: D102
        return cls(config.replace(eval__word_times=""), mesh, workdir), []

    def init_params(self) -> PyTree:  # noqa: D102
        return init_model(self.model, self.config)

    def loss_fn(self) -> LossFn:  # noqa: D102
        teacher = make_teacher(self.config.loss, self.config.model.padding)
        return functools.partial(retrieval_loss, self.model, self.config.loss, teacher)

    @property
    def _knows_duplicates(self) -> bool:
        """Whether the loss can report how many of the positives that it finds are right."""
        return self.config.loss.denoising and bool(self.config.data.render)

    @functools.cached_property
    def _truths(self) -> dict[str, shapes.GroundTruth]:
        """The ground truth of the embedded world's videos."""
        return shapes.load_ground_truth(self.dataset.folder("annotations"))

    def abstract_batch(self) -> Batch:  # noqa: D102
        batch = super().abstract_batch()
        return batch._replace(scene_index=batch.video_index) if self._knows_duplicates else batch

    def evaluation_programs(self) -> dict[str, Program]:  # noqa: D102
        params, rows = self.abstract_params(), self.abstract_rows(self.evaluator.encoder.batch_size)
        scoring = self.evaluator.program(params, rows)
        return super().evaluation_programs() | {"gallery_similarity": scoring}

    def completion(self, source: Source) -> Callable[[Batch, int], Batch]:  # noqa: D102
        if not self._knows_duplicates:
            return super().completion(source)
        numbers = shapes.number_scenes(self._truths)
        scenes = np.asarray([numbers[video.video_id] for video in source.split.videos], np.int32)
        return lambda batch, step: batch._replace(scene_index=scenes[batch.video_index])

    def validate(self, params: PyTree, source: Source) -> dict[str, float]:  # noqa: D102
        gallery = self._encode(params, source)
        metrics = gallery_metrics(self.evaluator.similarity(params, gallery), gallery)
        for direction in ("t2v", "v2t"):
            metrics |= {f"{direction}/{name}": value for name, value in metrics.pop(direction).items()}
        return metrics

    def evaluate(self, params: PyTree, label: str) -> Results:  # noqa: D102
        # Drawing libraries take long to load, and most commands draw nothing.
        from hbi_jax.tasks.retrieval.pictures import draw_embeddings, draw_interactions, draw_patches

        config = self.config
        baseline = self._baseline() if config.eval.baselines else None
        bank = self._querybank(params) if "querybank" in config.eval.normalize else None
        galleries, tables, unreadable, pictures, annotated = [], [], {}, [], set()
        dataset = self._ambiguous_captions() if config.data.render else {}
        for name in self.dataset.galleries:
            source = self.source(name)
            encoded = self._encode(params, source)
            before = None if baseline is None else self._encode(baseline, source)
            scored = [
                *self._scored(params, encoded, bank, f"{config.name}, {label}"),
                *self._baselines(params, encoded, baseline, before),
            ]
            galleries.append(_results(f"gallery {name!r}", scored, encoded))
            dataset |= {f"{name} texts": len(source.split.records), f"{name} videos": source.split.num_videos}
            unreadable |= source.unreadable
            known = self._word_truths(source)
            annotated |= known.keys()
            drawn = _spread(len(encoded.record_index), config.eval.num_pictures if len(galleries) == 1 else 0)
            # All processes play the same games, though only the first one draws.
            games = self._games(params, encoded, source, drawn, known)
            stages = self._embedded(params, encoded, before) if len(drawn) else []
            if jax.process_index() == 0 and games:
                chosen = {level: [played[row] for row in drawn.tolist()] for level, played in games.items()}
                pictures += draw_interactions(chosen, source, self.workdir / "pictures", known)
            if jax.process_index() == 0 and stages:
                pictures += draw_embeddings(stages, config.model.levels[0].name, self.workdir / "pictures")
            tables += self._pointing(name, games, source, known)
            in_space = self._patches(params, encoded, source, drawn)
            tables += patches.tables(f"pointing in space, gallery {name!r}", in_space, source)
            if jax.process_index() == 0:
                shown = set(encoded.record_index[drawn].tolist())
                few = [played for played in in_space if played.game.record_index in shown]
                pictures += draw_patches(few, source, self.workdir / "pictures")
        self._tell_unknown(annotated, unreadable)
        return Results(dataset, unreadable, galleries, tables, pictures, PROTOCOL)

    def _games(
        self, params: PyTree, gallery: Gallery, source: Source, drawn: Int[np.ndarray, " n"], known: pointing.Truths
    ) -> dict[str, dict[int, Game]]:
        """Returns the games of matched pairs at every level, by row: those to draw, and those with ground truth.

        There are none at levels whose tokens are no groups of words and frames, nor if a text is a single token.
        """
        if self.config.model.pooled:
            return {}
        records = [source.split.records[index] for index in gallery.record_index]
        annotated = [row for row, record in enumerate(records) if (record.video_id, record.text) in known]
        rows, games = np.union1d(drawn, annotated).astype(int), {}
        for level in gallery.text.members:
            if level not in gallery.video.members:
                continue
            estimates = self._estimates if annotated and level == self.config.model.levels[0].name else {}
            played = play(self.evaluator, params, gallery, rows, level, source, self.dataset.tokenizer, estimates)
            games[level] = dict(zip(rows.tolist(), played, strict=True))
        return games

    def _patches(
        self, params: PyTree, gallery: Gallery, source: Source, drawn: Int[np.ndarray, " n"]
    ) -> list[PatchGame]:
        """Returns the games of matched pairs with the patches of a frame: those to draw, and some with ground truth."""
        level, count = self.config.model.levels[0].name, self.config.eval.patch_texts
        if not count or self.config.model.pooled or level not in gallery.text.members:
            return []
        records = [source.split.records[index] for index in gallery.record_index]
        known = np.flatnonzero([(record.video_id, record.text) in self._regions for record in records])
        rows = np.union1d(np.intersect1d(drawn, known), known[_spread(len(known), count)])
        tokenizer = self.dataset.tokenizer
        return play_patches(self.evaluator, params, gallery, rows, self._regions, level, source, tokenizer)

    def _embedded(self, params: PyTree, gallery: Gallery, before: Gallery | None) -> list[Embedded]:
        """Returns the tokens of some matched pairs at the finest level: before training, after it, reconstructed."""
        model, level = self.config.model, self.config.model.levels[0].name
        if model.pooled:
            return []
        rows = _spread(len(gallery.record_index), _EMBEDDED)

        def tokens(name: str, gallery: Gallery) -> Embedded:
            words, frames = gallery.text.levels[level], gallery.video.levels[level]
            videos = gallery.text_to_video[rows]
            return Embedded(name, words.features[rows], words.mask[rows], frames.features[videos], frames.mask[videos])

        stages = [] if before is None else [tokens(self._before, before)]
        stages.append(tokens("after training", gallery))
        if model.reconstruction:
            match = self.evaluator.match(params, gallery, rows, level)
            sides = match.text.features, match.text.mask, match.video.features, match.video.mask
            stages.append(Embedded("after training, reconstructed", *sides))
        return stages

    @property
    def _before(self) -> str:
        """What the model before training is called."""
        return "before training" if self.config.init else "untrained"

    @functools.cached_property
    def _estimates(self) -> dict[str, Estimate]:
        """Returns the estimates of the interaction that are compared with it: samples, and the run's estimator."""
        teachers = {f"sampled, {number} coalitions": sampled_teacher(1.0, number) for number in _SAMPLES}
        if self.config.loss.teacher == "estimator":
            # As it estimates, not as standardised logits, whose sign says nothing about the interaction's.
            plain = dataclasses.replace(self.config.loss, teacher_temperature=0.0)
            teachers["estimator"] = make_teacher(plain, self.config.model.padding)
        key = jax.random.key(self.config.seed)

        def estimate(teacher: Teacher) -> Estimate:
            teach = jax.jit(teacher)
            # Each block draws its own coalitions.
            return lambda match, first: np.asarray(
                teach(jax.tree.map(jnp.asarray, match), jax.random.fold_in(key, first))
            )

        return {name: estimate(teacher) for name, teacher in teachers.items()}

    def _pointing(
        self, name: str, games: Mapping[str, Mapping[int, Game]], source: Source, known: pointing.Truths
    ) -> list[reports.Table]:
        """Returns a table per level of where the words of captions point whose ground truth is known."""
        tables = []
        # A header that learns nothing from the interaction does not point.
        trained = self.config.loss.interaction_weight and self.config.model.header != "none"
        for level, played in games.items():
            found: dict[str, list[Pointed]] = {}
            for game in played.values():
                record, video = (of[game.record_index] for of in (source.split.records, source.split.video_index))
                truth = known.get((record.video_id, record.text))
                if truth is None:
                    continue
                for method, values in game.values.items():
                    if method != HEADER or trained:
                        pointed = pointing.point(values, game.tokens, truth, int(video))
                        found.setdefault(method, []).extend(pointed)
            finest = level == self.config.model.levels[0].name
            where = f"gallery {name!r}" if finest else f"level {level!r}, gallery {name!r}"
            if found:
                tables += pointing.tables(f"pointing, {where}", found, details=not finest)
        return tables

    def _encode(self, params: PyTree, source: Source) -> Gallery:
        return self.evaluator.encoder.encode(params, source, self.config.data.num_threads)

    def _scored(self, params: PyTree, gallery: Gallery, bank: Gallery | None, own: str) -> Iterator[_Scored]:
        """Yields the run's own similarities, plain and with each normalisation of `config.eval.normalize`."""
        settings, plain = self.config.eval, self.evaluator.similarity(params, gallery)
        yield _Scored(own, plain)
        if "dual_softmax" in settings.normalize:
            yield _Scored(
                f"{own}, dual softmax (uses all test queries)",
                dual_softmax(plain, settings.dual_softmax_temperature),
                "Dual softmax uses the whole test set: each similarity is multiplied by its softmax over all test "
                "queries of the direction, so the results of one query depend on the others.",
            )
        if bank is not None:
            texts = dataclasses.replace(bank, video=gallery.video)
            videos = dataclasses.replace(gallery, video=bank.video)
            yield _Scored(
                f"{own}, querybank (uses {len(bank.record_index):,} training texts and their videos)",
                querybank(
                    plain,
                    self.evaluator.similarity(params, texts),
                    self.evaluator.similarity(params, videos),
                    settings.querybank_temperature,
                ),
                "Querybank (QB-Norm, dynamic inverted softmax) uses training queries: similarities to a video are "
                "divided by how close the video is to training texts, and similarities to a text by how close the text "
                "is to training videos.",
            )

    def _baselines(
        self, params: PyTree, gallery: Gallery, baseline: PyTree | None, before: Gallery | None
    ) -> Iterator[_Scored]:
        """Yields the baselines: mean-pooled features of the same towers, and the model before training."""
        if self.config.eval.baselines:
            pooled = self.evaluator.similarity(params, gallery, pooled=True)
            yield _Scored("its towers, mean-pooled", pooled)
        if before is not None:
            yield _Scored(self._before, self.evaluator.similarity(baseline, before))

    def _querybank(self, params: PyTree) -> Gallery:
        """Encodes training texts with their videos, evenly spread over the split."""
        split = self.dataset.split("train")
        few = min(self.config.eval.querybank_size, len(split.records))
        chosen = np.linspace(0, len(split.records) - 1, few).astype(int)
        bank = Split("querybank", tuple(split.records[row] for row in chosen))
        check_same_data([bank])
        return self._encode(params, self.dataset.source(bank))

    def _baseline(self) -> PyTree | None:
        """Returns the parameters before training, or None (with a warning) if they are no longer available."""
        try:
            return self.placed(self.load_init)
        except (ConfigError, CheckpointError) as error:
            _log.warning("the report has no row of the model before training: %s", error)
            return None

    def _ambiguous_captions(self) -> dict[str, int]:
        """Returns how many of the embedded world's training captions describe a video besides their own."""
        split, numbers = self.dataset.split("train"), shapes.number_scenes(self._truths)
        scenes = [numbers[video.video_id] for video in split.videos]
        videos_of = np.bincount(scenes)
        ambiguous = sum(int(videos_of[numbers[record.video_id]] > 1) for record in split.records)
        return {
            "training captions": len(split.records),
            "training captions that describe another training video as well": ambiguous,
        }

    @functools.cached_property
    def _regions(self) -> Regions:
        """The objects of the events that captions tell, in one frame of each event; none outside the embedded world."""
        return regions.of_world(self._truths, self._sample) if self.config.data.render else {}

    @property
    def _sample(self) -> truths.Sample:
        """How frames of the embedded world's videos are sampled."""
        data = self.config.data
        return functools.partial(
            sample_indices,
            fps=float(self.dataset.world.fps),
            max_frames=data.num_frames,
            frames_per_second=data.frames_per_second,
            draws=middle(data.num_frames) if data.sampling == "segments" else None,
        )

    def _word_truths(self, source: Source) -> pointing.Truths:
        """Returns the frames that words of captions refer to, as far as they are known."""
        if self.config.data.render:
            return truths.of_world(self._truths, self._sample)
        return truths.of_source(self._word_times, source)

    def _tell_unknown(self, known: Collection[tuple[str, str]], unreadable: Mapping[str, str]) -> None:
        """Warns of annotated captions that no gallery has."""
        unknown = [(video, text) for video, text in self._word_times.keys() - known if video not in unreadable]
        if unknown:
            video, text = min(unknown)
            _log.warning(
                "config.eval.word_times: %d of %d captions are in no gallery, such as %r of video %r; wanted the video "
                "ids and captions of the galleries, letter for letter",
                len(unknown),
                len(self._word_times),
                text,
                video,
            )


def make_evaluator(model: HBI, config: Config, mesh: Mesh) -> RetrievalEvaluator:
    """Builds the evaluator that encodes and scores galleries, as configured by `config.eval`."""
    settings = config.eval
    return RetrievalEvaluator(
        model,
        mesh,
        batch_size=settings.batch_size,
        video_block=settings.video_block,
        level_rates=config.level_rates,
    )


def _spread(length: int, count: int) -> Int[np.ndarray, " n"]:
    """Returns at most `count` of the numbers below `length`, spread evenly."""
    return np.linspace(0, length - 1, min(count, length)).astype(int)


def _results(name: str, scored: list[_Scored], gallery: Gallery) -> reports.Gallery:
    """Computes the metrics of every method on a gallery."""
    rows = []
    for method, similarity, note in scored:
        metrics = gallery_metrics(similarity, gallery)
        rows.append(reports.Row(method, metrics, metrics.pop("group_accuracy", None), note))
    num_videos = len(gallery.video.pooled)
    return reports.Gallery(
        name=name,
        texts=len(gallery.record_index),
        videos=num_videos,
        chance=chance_metrics(num_videos),
        rows=rows,
        group_chance=None if gallery.groups is None else group_chance(gallery.text_to_video, gallery.groups),
    )
