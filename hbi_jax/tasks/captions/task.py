"""Video captioning with a decoder on top of the alignments, scored against all references of each video."""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from hbi_jax.data.datasets import DataError
from hbi_jax.data.datasets.readers import read_json
from hbi_jax.data.shapes import load_ground_truth
from hbi_jax.data.shapes.entities import Events
from hbi_jax.data.shapes.judge import judge
from hbi_jax.data.source import Source
from hbi_jax.fields import ConfigError
from hbi_jax.files import replace_file
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.decoding import PADDING
from hbi_jax.report.report import Column, Picture
from hbi_jax.tasks.captions.batch import CaptionBatch
from hbi_jax.tasks.captions.evaluator import (
    Captioned,
    CaptionEvaluator,
    Method,
    caption_table,
    references_of,
    without_a_model,
)
from hbi_jax.tasks.captions.metrics import REMEDY, caption_scores, is_installed
from hbi_jax.tasks.captions.objective import caption_loss
from hbi_jax.tasks.captions.pictures import Example, plot_captions
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.gallery import Program
from hbi_jax.tasks.several import abstract_several, several_texts
from hbi_jax.tasks.task import Results, Task, init_model
from hbi_jax.tasks.teacher import make_teacher
from hbi_jax.train.step import LossFn
from hbi_jax.types import Batch

_log = logging.getLogger(__name__)

TOKENS = "caption_tokens.json"
PROTOCOL = "One caption per video is scored against all references of the video."
# What the grammar of the embedded world finds in a caption.
FIRST_EVENT = Column(
    "first event right",
    "First event right: parsed by the grammar of the embedded world, the caption gives the right colour, shape and "
    "action of the first event, and the right size if it gives any. A caption that the grammar cannot parse is wrong.",
)
ALL_EVENTS = Column("all events right", "All events right: the same for all events, in the right order.")


class CaptionTask(Task):
    """HBI with a caption decoder.

    Attributes:
      tokens: The token ids that captions may contain; empty for CLIP's whole vocabulary.
    """

    name = "captions"

    def __init__(self, config: Config, mesh: Mesh, workdir: epath.Path, tokens: tuple[int, ...] | None = None):
        super().__init__(config, mesh, workdir)
        self.tokens = self._vocabulary() if tokens is None else tokens
        self.decoding = config.captions
        self.model = CaptionHBI(config.model, config.captions.decoder_layers, config.captions.dropout_rate, self.tokens)
        self.evaluator = CaptionEvaluator(
            self.model, mesh, batch_size=config.eval.batch_size, tokenizer=self.dataset.tokenizer
        )

    @classmethod
    def of_run(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> "CaptionTask":  # noqa: D102
        every = config.captions.vocabulary == "clip"
        return cls(config, mesh, workdir, () if every else _read_tokens(workdir / TOKENS, config.model.clip.vocab_size))

    @classmethod
    def without_data(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> tuple["CaptionTask", list[str]]:  # noqa: D102
        every = config.captions.vocabulary == "clip"
        assumed = [] if every else ["captions may contain every token of CLIP; the training texts have fewer"]
        return cls(config, mesh, workdir, ()), assumed

    def _vocabulary(self) -> tuple[int, ...]:
        """Returns the token ids of the training texts, or none for all, as `config.captions.vocabulary` says."""
        if self.config.captions.vocabulary == "clip":
            return ()
        texts = [record.text for record in self.dataset.split("train").records]
        token_ids, _ = self.dataset.tokenizer.encode(texts)
        return tuple(np.union1d(token_ids, PADDING).tolist())

    def claim_workdir(self) -> None:  # noqa: D102
        if self.tokens:
            replace_file(self.workdir / TOKENS, json.dumps(self.tokens) + "\n")

    def init_params(self) -> PyTree:  # noqa: D102
        return init_model(self.model, self.config)

    def loss_fn(self) -> LossFn:  # noqa: D102
        teacher = make_teacher(self.config.loss, self.config.model.padding)
        return functools.partial(caption_loss, self.model, self.config.loss, teacher)

    def abstract_batch(self) -> Batch | CaptionBatch:  # noqa: D102
        batch, count = super().abstract_batch(), self.config.captions.references_per_video
        return CaptionBatch(batch, *abstract_several(count, batch.token_ids, batch.text_mask)) if count > 1 else batch

    def evaluation_programs(self) -> dict[str, Program]:  # noqa: D102
        rows = self.abstract_rows(self.evaluator.encoder.batch_size)
        return self.evaluator.programs(self.abstract_params(), rows, self.decoding)

    def completion(self, source: Source) -> Callable[[Batch, int], Batch | CaptionBatch]:  # noqa: D102
        count, seed = self.config.captions.references_per_video, self.config.seed

        def complete(batch: Batch, step: int) -> Batch | CaptionBatch:
            if count == 1:
                return batch
            _, *texts = several_texts(source, batch, count, seed, step)
            return CaptionBatch(batch, *texts)

        return complete

    def source(self, split: str) -> Source:
        """Opens a split or gallery. Before training, checks that validation can compute `config.eval.best_metric`."""
        best = self.config.eval.best_metric
        if split == "val" and best.endswith("/accuracy") and not self.config.data.render:
            raise ConfigError(
                f"config.eval.best_metric={best!r}: wanted 'CIDEr', 'ROUGE-L' or 'BLEU-4' if config.data.render is "
                "empty, because only the embedded world has ground-truth events; choose one of them"
            )
        if split == "val" and not best.endswith("/accuracy") and not is_installed():
            raise ConfigError(
                f"config.eval.best_metric={best!r} needs pycocoevalcap, which is not installed: {REMEDY}, or turn "
                "validation off: --config.data.val_list='' --config.data.num_val_videos=0"
            )
        return super().source(split)

    def validate(self, params: PyTree, source: Source) -> dict[str, float]:
        """Scores greedy captions, without Java. Greedy decoding takes a fraction of the time of a beam search."""
        greedy = dataclasses.replace(self.decoding, method="greedy")
        captioned = self.evaluator.caption(params, source, greedy, self.config.data.num_threads)
        captions = captioned.best(source)
        scores = caption_scores(captions, references_of(source), java=False).values
        judged = self._judge(captions) if self.config.data.render else {}
        names = {FIRST_EVENT: "first_event/accuracy", ALL_EVENTS: "all_events/accuracy"}
        return scores | {names[column]: value for column, value in judged.items()}

    def evaluate(self, params: PyTree, label: str) -> Results:
        """Evaluates every gallery. Writes the captions to `captions-<gallery>.json` in COCO's result format."""
        config, tables, pictures, dataset, unreadable = self.config, [], [], {}, {}
        for name in self.dataset.galleries:
            source = self.source(name)
            captioned = self.evaluator.caption(params, source, self.decoding, config.data.num_threads, config.seed)
            captions = captioned.best(source)
            references = {video: texts for video, texts in references_of(source).items() if video in captions}
            methods = {f"{config.name}, {label}, {self.decoding.method}": Method(captions, references)}
            if config.eval.baselines:
                methods |= without_a_model(references, self._training)
            tables.append(caption_table(f"Captions {name!r}", methods, self._judge if config.data.render else None))
            if jax.process_index() == 0:
                results = [{"image_id": video, "caption": caption} for video, caption in captions.items()]
                text = json.dumps(results, ensure_ascii=False, indent=1)
                replace_file(self.workdir / f"captions-{name}.json", text)
            if not pictures and config.eval.num_pictures and jax.process_index() == 0:
                path = self.workdir / "pictures" / "captions.png"
                plot_captions(self._examples(captioned, references, source), path)
                pictures = [Picture(str(path), f"Videos of {name!r} with a reference and the generated caption.")]
            count = sum(map(len, references.values()))
            dataset |= {f"{name} videos": source.split.num_videos, f"{name} references": count}
            unreadable |= source.unreadable
        return Results(dataset, unreadable, tables=tables, pictures=pictures, protocol=(PROTOCOL,))

    @functools.cached_property
    def _training(self) -> list[str]:
        """The training captions, or none (with a warning) if the training split cannot be read."""
        try:
            return [record.text for record in self.dataset.split("train").records]
        except DataError as error:
            _log.warning("the report has no row of the most frequent training caption: %s", error)
            return []

    @functools.cached_property
    def _events(self) -> dict[str, Events]:
        """The events of each video of the embedded world."""
        truths = load_ground_truth(self.dataset.folder("annotations"))
        return {video: truth.events for video, truth in truths.items()}

    def _judge(self, captions: Mapping[str, str]) -> dict[Column, float]:
        """Returns the accuracies of captions of the embedded world, in percent."""
        found = judge(captions, self._events)
        return {FIRST_EVENT: found.first_event, ALL_EVENTS: found.all_events}

    def _examples(self, captioned: Captioned, references: Mapping[str, Sequence[str]], source: Source) -> list[Example]:
        """Returns videos with their captions, spread evenly over the split."""
        count = len(captioned.captions)
        rows = np.linspace(0, count - 1, min(self.config.eval.num_pictures, count)).astype(int)
        frames, frame_mask, _ = source.video_rows(captioned.video_index[rows])
        return [
            Example(clip[mask], captioned.captions[row][0], references[source.split.videos[video].video_id])
            for row, video, clip, mask in zip(rows, captioned.video_index[rows], frames, frame_mask, strict=True)
        ]


def _read_tokens(file: epath.Path, vocab_size: int) -> tuple[int, ...]:
    """Reads the token ids that the captions of a finished run may contain.

    Raises:
      DataError: If the file is not a valid list of token ids.
    """
    tokens = read_json(file)
    needed = {PADDING, vocab_size - 2, vocab_size - 1}
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        problem = f"a {type(tokens).__name__} of something else"
    elif sorted(set(tokens)) != tokens or not needed <= set(tokens) <= set(range(vocab_size)):
        problem = f"{len(tokens)} numbers"
    else:
        return tuple(tokens)
    wanted = f"a list of ascending numbers from 0 to {vocab_size - 1}, {sorted(needed)} among them"
    raise DataError(f"{file}", problem, wanted, "give the work folder as training left it")
