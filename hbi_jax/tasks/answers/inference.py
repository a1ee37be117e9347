"""Question answering on video files with a finished run."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from hbi_jax.tasks.inference import Paths, Run, open_run, several, video_source


class Answer(NamedTuple):
    """The answers of a model to a question about a video.

    Attributes:
      video: The file, as given.
      question: The question, as given.
      answers: The likeliest answers, the likeliest first; empty if the video is unreadable.
      probabilities: The probabilities of `answers`, in 0..1.
      error: Why the video is unreadable; None if it was read.
    """

    video: str
    question: str
    answers: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


def answer_questions(
    checkpoint: str | os.PathLike[str] | Run, videos: Paths, questions: str | Sequence[str], top: int = 5
) -> list[Answer]:
    """Answers every question about every video.

    Args:
      checkpoint: A work folder or step, see `open_run`, or a `Run` that `open_run` returned for `answers`.
      videos: The files; each is read once. An unreadable file does not affect the others.
      questions: One or several questions. A question that is too long for the model is truncated with a warning.
      top: Number of answers per question, or the whole vocabulary if it has fewer.

    Returns:
      The answers to all questions about the first video, then about the second, and so on.

    Raises:
      ValueError: If there is no video or question, a question is empty, or `top` is less than 1.
      CheckpointError: If the checkpoint cannot be opened, see `open_run`.
    """
    if top < 1:
        raise ValueError(f"top={top}: wanted 1 answer or more; raise it")
    questions = several(questions)
    if not isinstance(checkpoint, Run):
        checkpoint = open_run(checkpoint, "answers", batch_size=min(8, len(several(videos))))
    config, task, params = checkpoint
    source = video_source(task.dataset, videos, questions)
    answered = task.evaluator.answer(params, source, config.data.num_threads, top)
    found = {
        record: (tuple(task.vocabulary.answers[number] for number in numbers), tuple(probabilities))
        for record, numbers, probabilities in zip(
            answered.record_index.tolist(), answered.answers.tolist(), answered.probabilities.tolist(), strict=True
        )
    }
    return [
        Answer(record.video_id, record.text, *found.get(number, ((), ())), source.unreadable.get(record.video_id))
        for number, record in enumerate(source.split.records)
    ]
