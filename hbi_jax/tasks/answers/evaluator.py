"""Answering the questions of a split, and the table of accuracies."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from hbi_jax.commands.progress import Progress
from hbi_jax.data.datasets.records import Record
from hbi_jax.data.pipeline import text_batches
from hbi_jax.data.source import Source
from hbi_jax.data.text import clean
from hbi_jax.models.answer import AnswerHBI
from hbi_jax.parallel.mesh import batch_sharding, put_batch
from hbi_jax.report.report import Column, Table, TableRow
from hbi_jax.tasks.answers.metrics import Accuracy, answer_accuracy
from hbi_jax.tasks.answers.vocabulary import Vocabulary
from hbi_jax.tasks.gallery import GalleryEncoder, Program, to_host, with_sharding
from hbi_jax.types import Batch, Encoded

# Number of answers kept per question.
_TOP = 3


@dataclasses.dataclass(frozen=True)
class Answered:
    """The questions of a split with their likeliest answers, without the questions about unreadable videos.

    Attributes:
      record_index: The index of each question among the records of its split.
      answers: The vocabulary indices of the likeliest answers, the likeliest first.
      probabilities: The probabilities of `answers`.
    """

    record_index: Int[np.ndarray, " n"]
    answers: Int[np.ndarray, "n k"]
    probabilities: Float[np.ndarray, "n k"]


class AnswerEvaluator:
    """An evaluator that answers the questions of a split. Every video is encoded once for all of its questions.

    It is compiled once for all splits and parameters.

    Attributes:
      encoder: The encoder of the videos.
    """

    def __init__(self, model: AnswerHBI, mesh: Mesh, *, batch_size: int, level_rates: Mapping[str, float]):
        """Prepares the compiled functions.

        Args:
          model: The model.
          mesh: The devices; rows lie along its data axis.
          batch_size: Questions or videos per batch, rounded up to a multiple of the mesh's data axis.
          level_rates: The weight of each level's answers, by level name.
        """
        self.encoder, self._num_answers = GalleryEncoder(model, mesh, batch_size), model.num_answers

        def answer(params: PyTree, token_ids: Array, mask: Array, video: Encoded, top: int) -> Sequence[Array]:
            text = model.apply(params, token_ids, mask, method="encode_text")
            logits = model.apply(params, text, video, level_rates, method="answer_questions")
            return jax.lax.top_k(jax.nn.softmax(logits), top)

        self._answer = jax.jit(answer, out_shardings=batch_sharding(mesh), static_argnums=4)

    def programs(self, params: PyTree, rows: Batch) -> dict[str, Program]:
        """Returns the programs that encode videos and answer questions.

        Args:
          params: The shapes of the model's variables.
          rows: The shapes of a batch of as many rows as the encoder takes.
        """
        encode = self.encoder.programs(params, rows)["encode_video"]
        video = jax.eval_shape(encode.function, *encode.arguments)
        inputs = with_sharding((rows.token_ids, rows.text_mask, video), batch_sharding(self.encoder.mesh))
        top = min(_TOP, self._num_answers)
        return {"encode_video": encode, "answer_questions": Program(self._answer, (params, *inputs, top))}

    def answer(self, params: PyTree, source: Source, num_threads: int = 1, top: int = _TOP) -> Answered:
        """Answers all questions of a split.

        Args:
          params: The model's variables.
          source: The split.
          num_threads: Number of decoding threads.
          top: Number of answers to keep per question, or all if there are fewer.

        Raises:
          DataError: If more videos are unreadable than the source allows.
        """
        split = source.split
        video, place = self.encoder.encode_videos(params, source, num_threads)
        top = min(top, self._num_answers)
        if (place < 0).all():
            return Answered(np.zeros(0, np.int32), np.zeros((0, top), np.int32), np.zeros((0, top), np.float32))
        parts = []
        with Progress(len(split.records), f"answer questions, {split.name}") as progress:
            for batch in text_batches(source, self.encoder.batch_size, self.encoder.local_rows):
                rows = place[split.video_index[np.where(batch.example_mask, batch.record_index, 0)]]
                frames = jax.tree.map(itemgetter(rows), video)
                keep = batch.example_mask & (rows >= 0)
                *inputs, index, real = put_batch(
                    (batch.token_ids, batch.text_mask, frames, batch.record_index, keep), self.encoder.mesh
                )
                parts.append(to_host((index, real, *self._answer(params, *inputs, top))))
                progress.update(int(parts[-1][1].sum()))
        index, real, probabilities, answers = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Answered(index[real], answers[real], probabilities[real])


def most_frequent_answers(train: Sequence[Record], asked: Sequence[Record]) -> list[str]:
    """Answers each question with the most frequent training answer to the same question.

    This baseline uses neither the video nor a model. If the question does not occur in the training split, it takes the
    most frequent answer to questions of its type, or else of all questions.

    Args:
      train: The training questions with their answers.
      asked: The questions to answer.
    """
    counts: dict[tuple, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for record in train:
        for key in _from_narrow_to_wide(record):
            counts[key][record.answer] += 1
    best = {key: min(counter, key=lambda answer: (-counter[answer], answer)) for key, counter in counts.items()}
    return [next(best[key] for key in _from_narrow_to_wide(record) if key in best) for record in asked]


def _from_narrow_to_wide(record: Record) -> Iterator[tuple]:
    yield "question", clean(record.text)
    yield "type", record.answer_type
    yield ("all",)


def accuracies(
    given: Sequence[str], asked: Sequence[Record], vocabulary: Vocabulary
) -> tuple[Accuracy, Accuracy | None]:
    """Computes the accuracy over all questions, and over those whose answer is in the vocabulary.

    Args:
      given: One answer per question.
      asked: The questions with their right answers.
      vocabulary: The answer vocabulary of the model.

    Returns:
      Both accuracies; the second is None if no answer is in the vocabulary.
    """
    right, types = [record.answer for record in asked], [record.answer_type for record in asked]
    known = {answer for answer in right if vocabulary.index(answer) >= 0}
    return answer_accuracy(given, right, types), answer_accuracy(given, right, types, known) if known else None


class Method(NamedTuple):
    """The answers of a method, one per question, and a sentence that explains the method."""

    answers: Sequence[str]
    note: str = ""


def accuracy_table(title: str, methods: Mapping[str, Method], asked: Sequence[Record], vocabulary: Vocabulary) -> Table:
    """Tabulates the accuracy of each method by both protocols, or by one if the vocabulary has every answer.

    Args:
      title: The heading.
      methods: The methods by name; the first is the run's own.
      asked: The questions with their right answers.
      vocabulary: The answer vocabulary of the model.
    """
    rows, found = [], {name: accuracies(method.answers, asked, vocabulary) for name, method in methods.items()}
    (everything, known), *_ = found.values()
    complete = known is not None and known.counts == everything.counts
    for name, protocols in found.items():
        labels = ("all questions", "answer in the vocabulary")
        for label, accuracy in zip(labels, protocols[: 1 if complete else 2], strict=False):
            values = [None] * (1 + len(everything.counts))
            if accuracy is not None:
                values = [accuracy.overall, *map(accuracy.by_type.get, everything.counts)]
            rows.append(TableRow(f"{name}: {label}", values, methods[name].note))
    answerable = 0 if known is None else sum(known.counts.values())
    counts = ", ".join(f"{kind} {count:,}" for kind, count in everything.counts.items())
    note = (
        f"{len(asked):,} questions ({counts}), {answerable:,} of them with an answer among the {len(vocabulary):,} of "
        f"the vocabulary{': both protocols are the same' if complete else ''}."
    )
    others = "; ".join(f"{name}: {both[0].overall:.1f} %" for name, both in list(found.items())[1:])
    published = "" if complete or known is None else f" ({known.overall:.1f} % of those that the vocabulary can answer)"
    headline = (
        f"**{title}**: **{everything.overall:.1f} %** of {len(asked):,} questions are answered right{published}"
        f"{f'; {others}' if others else ''}."
    )
    columns = [Column("overall, %"), *(Column(f"{kind}, %") for kind in everything.counts)]
    return Table(title, headline, columns, rows, note)
