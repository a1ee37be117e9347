"""Captioning the videos of a split, and the table of scores."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from hbi_jax.commands.progress import Progress
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.decoding import Decoding, Generated, generate
from hbi_jax.parallel.mesh import batch_sharding, put_everywhere
from hbi_jax.report.report import Column, Table, TableRow
from hbi_jax.tasks.captions.metrics import NAMES, CaptionScores, caption_scores
from hbi_jax.tasks.gallery import GalleryEncoder, Program, equal_blocks, to_host, with_sharding
from hbi_jax.types import Batch, WeightedTokens, finest

# The scores in the headline of a table, if they were computed.
_HEADLINE = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-4")


@dataclasses.dataclass(frozen=True)
class Captioned:
    """The readable videos of a split with their captions.

    Attributes:
      video_index: The index of each row among the videos of its split.
      captions: The captions of each video, the best first. A caption may be empty.
      log_probability: The model's log-probability of each caption; -inf if there are fewer captions than requested.
    """

    video_index: Int[np.ndarray, " v"]
    captions: tuple[tuple[str, ...], ...]
    log_probability: Float[np.ndarray, "v n"]

    def best(self, source: Source) -> dict[str, str]:
        """Returns the best caption of each video by video id."""
        videos = source.split.videos
        return {videos[index].video_id: said[0] for index, said in zip(self.video_index, self.captions, strict=True)}


class CaptionEvaluator:
    """An evaluator that captions the videos of a split: it encodes each video once, then decodes in batches.

    It is compiled once per decoding configuration for all splits and parameters.

    Attributes:
      encoder: The encoder of the videos.
    """

    def __init__(self, model: CaptionHBI, mesh: Mesh, *, batch_size: int, tokenizer: Tokenizer):
        """Prepares the compiled functions.

        Args:
          model: The model.
          mesh: The devices; rows lie along its data axis.
          batch_size: Videos per batch, rounded up to a multiple of the mesh's data axis.
          tokenizer: Decodes token ids to text.
        """
        self.encoder, self._tokenizer = GalleryEncoder(model, mesh, batch_size), tokenizer

        def caption(
            params: PyTree, video: WeightedTokens, decoding: Decoding, key: Array, rows: Int[Array, " b"]
        ) -> Generated:
            return generate(model, params, video, decoding, key, rows)

        self._caption = jax.jit(caption, out_shardings=batch_sharding(mesh), static_argnums=2)

    def programs(self, params: PyTree, rows: Batch, decoding: Decoding) -> dict[str, Program]:
        """Returns the programs that encode and caption videos.

        Args:
          params: The shapes of the model's variables.
          rows: The shapes of a batch of as many rows as the encoder takes.
          decoding: The decoding configuration.
        """
        encode = self.encoder.programs(params, rows)["encode_video"]
        video = finest(jax.eval_shape(encode.function, *encode.arguments).levels)
        key = jax.eval_shape(lambda: jax.random.key(0))
        numbers = jax.ShapeDtypeStruct(video.mask.shape[:1], np.int32)
        video, numbers = with_sharding((video, numbers), batch_sharding(self.encoder.mesh))
        return {"encode_video": encode, "caption": Program(self._caption, (params, video, decoding, key, numbers))}

    def caption(
        self, params: PyTree, source: Source, decoding: Decoding, num_threads: int = 1, seed: int = 0
    ) -> Captioned:
        """Captions all videos of a split.

        Args:
          params: The model's variables.
          source: The split.
          decoding: The decoding configuration.
          num_threads: Number of threads that decode videos.
          seed: The seed of sampled captions, which follow from it, the video and its number in the split, whatever
            the size of a batch and the number of devices.

        Raises:
          DataError: If more videos are unreadable than the source allows.
        """
        video, place = self.encoder.encode_videos(params, source, num_threads)
        video_index = np.flatnonzero(place >= 0).astype(np.int32)
        tokens, size, count = finest(video.levels), self.encoder.batch_size, len(video_index)
        key = jax.random.key(seed)
        rows, captions = batch_sharding(self.encoder.mesh), []
        log_probability = np.zeros((0, decoding.num_captions), np.float32)
        with Progress(count, f"caption videos, {source.split.name}") as progress:
            for block in equal_blocks(count, size):
                numbers = video_index[block]
                inputs = put_everywhere((jax.tree.map(itemgetter(place[numbers]), tokens), numbers), rows)
                made = to_host(self._caption(params, inputs[0], decoding, key, inputs[1]))
                real = min(size, count - int(block[0]))
                captions += [
                    tuple(self._tokenizer.decode(ids[mask]) for ids, mask in zip(*row, strict=True))
                    for row in zip(made.token_ids[:real], made.mask[:real], strict=True)
                ]
                log_probability = np.concatenate([log_probability, made.log_probability[:real]])
                progress.update(real)
        return Captioned(video_index, tuple(captions), log_probability)


def references_of(source: Source) -> dict[str, list[str]]:
    """Returns all texts of each video of a split by video id."""
    references = collections.defaultdict(list)
    for record in source.split.records:
        references[record.video_id].append(record.text)
    return dict(references)


class Method(NamedTuple):
    """The captions of a method and their references, both by video, and a sentence that explains the method."""

    captions: Mapping[str, str]
    references: Mapping[str, Sequence[str]]
    note: str = ""


def without_a_model(references: Mapping[str, Sequence[str]], training: Sequence[str]) -> dict[str, Method]:
    """Returns the baselines without a model: one caption for all videos, and human captions.

    Args:
      references: The references by video.
      training: The captions of the training videos; may be empty.

    Returns:
      By name: the most frequent training caption (ties in alphabetical order) for every video, if there are training
      captions; and the first reference of each video against its other references, if a video has several.
    """
    methods, counts = {}, collections.Counter(training)
    if counts:
        frequent = min(counts, key=lambda text: (-counts[text], text))
        note = "Most frequent training caption: the same caption for every video."
        methods["most frequent training caption"] = Method(dict.fromkeys(references, frequent), references, note)
    if several := {video: texts for video, texts in references.items() if len(texts) > 1}:
        first = {video: texts[0] for video, texts in several.items()}
        others = {video: texts[1:] for video, texts in several.items()}
        note = "A reference: the first reference of each video, scored against its other references."
        methods["a reference"] = Method(first, others, note)
    return methods


def caption_table(
    title: str,
    methods: Mapping[str, Method],
    judge: Callable[[Mapping[str, str]], Mapping[Column, float]] | None = None,
) -> Table:
    """Tabulates the scores of each method.

    Args:
      title: The heading.
      methods: The methods by name; the first is the run's own.
      judge: Computes further measures of captions, in percent.
    """
    scores = {name: caption_scores(method.captions, method.references) for name, method in methods.items()}
    judged = {name: judge(method.captions) if judge else {} for name, method in methods.items()}
    (own, (captions, references, _)), *_ = methods.items()
    columns = [*map(Column, NAMES), *judged[own]]
    rows = []
    for name in methods:
        # pycocoevalcap's BLEU is slightly above 0 without a common phrase, so round.
        values = {Column(score): value for score, value in scores[name].values.items()} | judged[name]
        found = [None if (value := values.get(column)) is None else round(value, 2) for column in columns]
        rows.append(TableRow(name, found, methods[name].note))
    return Table(
        title,
        _headline(title, len(captions), scores[own], judged[own]),
        [column._replace(name=f"{column.name}, %") for column in columns],
        rows,
        _note(captions, references, scores[own]),
    )


def _headline(title: str, count: int, scores: CaptionScores, judged: Mapping[Column, float]) -> str:
    said = [f"{name} **{scores.values[name]:.1f}**" for name in _HEADLINE if name in scores.values]
    said += [f"{column.name} **{value:.1f} %**" for column, value in judged.items()]
    return f"**{title}**: {', '.join(said) or 'no score was computed'} over {count:,} videos."


def _note(captions: Mapping[str, str], references: Mapping[str, Sequence[str]], scores: CaptionScores) -> str:
    count = sum(len(references[video]) for video in captions)
    said = [f"{len(captions):,} videos with {count:,} references"]
    if scores.tokenizer:
        said.append(f"split into words by {scores.tokenizer}")
    if empty := sum(not caption.strip() for caption in captions.values()):
        said.append(f"{empty:,} of the captions are empty and score 0")
    reasons = collections.defaultdict(list)
    for name, reason in scores.not_run.items():
        reasons[reason].append(name)
    said += [f"not run: {', '.join(names)}, because {reason}" for reason, names in reasons.items()]
    return f"{'; '.join(said)}."
