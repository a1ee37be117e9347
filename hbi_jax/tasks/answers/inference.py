"""Questions about video files, answered by a finished run."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from hbi_jax.tasks.inference import Paths, Run, open_run, several, video_source


class Answer(NamedTuple):
    """What a model answers to a question about a video.

    Attributes:
      video: The file, as it was given.
      question: As it was given.
      answers: The likeliest answers, the likeliest first; none where the video cannot be read.
      probabilities: Theirs, in 0..1.
      error: Why the video cannot be read; None where it can.
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
      checkpoint: As of `open_run`, or what it gave for `answers`.
      videos: The files; each is read once. One that cannot be read spoils no other.
      questions: One or several. One that is too long for the model loses its end, and a warning names it.
      top: Answers of each question, or all of the vocabulary where there are fewer.

    Returns:
      All questions about the first video, all about the second, and so on.

    Raises:
      ValueError: If there is no video or question, a question is empty, or `top` is less than 1.
      CheckpointError: As `open_run`.
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
