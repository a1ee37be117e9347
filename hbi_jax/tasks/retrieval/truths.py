"""Ground truth of pointing: the sampled frames that the words of captions refer to."""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from hbi_jax.data.datasets.readers import read_json_lines, shown
from hbi_jax.data.datasets.records import DataError
from hbi_jax.data.shapes import GroundTruth
from hbi_jax.data.source import Source
from hbi_jax.data.text import clean
from hbi_jax.data.video import VideoError
from hbi_jax.tasks.retrieval.pointing import Truths, WordTruth

_FORMAT = (
    '{"video_id": "v1", "caption": "A red square slides.", "words": [{"text": "red", "role": "color", '
    '"times": [[0.0, 2.5]]}]}'
)

# Returns which frames are sampled of a video of so many.
Sample = Callable[[int], Int[np.ndarray, " n"]]


class TimedWord(NamedTuple):
    """A word of a caption.

    Attributes:
      text: The word, in lower case.
      role: What the word tells, such as "color"; empty if the word is not annotated.
      times: The parts of the video that the word refers to, from and to, in seconds.
    """

    text: str
    role: str = ""
    times: Sequence[tuple[float, float]] = ()


# The words of annotated captions, by video id and caption.
WordTimes = Mapping[tuple[str, str], Sequence[TimedWord]]


def of_world(world: Mapping[str, GroundTruth], sample: Sample) -> Truths:
    """Returns which sampled frames the words of the embedded world's first captions refer to.

    Args:
      world: The ground truth of its videos.
      sample: How frames are sampled.
    """
    out = {}
    for video_id, truth in world.items():
        frames = truth.word_frames()
        # The only event of a video fills it, but for the ends.
        left_out = {"", "action"} if len(truth.events) == 1 else {""}
        out[video_id, truth.caption] = WordTruth(
            [word.text for word in truth.words],
            ["" if word.role in left_out else word.role for word in truth.words],
            frames[:, sample(frames.shape[1])],
        )
    return out


def read_word_times(path: pathlib.Path) -> WordTimes:
    """Reads a file of word-to-time annotations, one caption a line (docs/data.md).

    Raises:
      DataError: If the file cannot be read, or a line has another form, a word that its caption does not have, or a
        time span that is negative or ends before it starts.
    """
    found = {}
    for number, line in read_json_lines(path):
        place = f"{path}, line {number}"
        key, words = _caption(place, line)
        if key in found:
            raise DataError(
                place, f"the caption {shown(key[1])} of video {shown(key[0])} again", "it once", "join them"
            )
        found[key] = words
    return found


def of_source(annotations: WordTimes, source: Source) -> Truths:
    """Returns which sampled frames of a split's videos the annotated words refer to; skips unreadable videos."""
    out = {}
    for record, video in zip(source.split.records, source.split.video_index.tolist(), strict=True):
        words = annotations.get((record.video_id, record.text))
        if words is None or record.video_id in source.unreadable:
            continue
        try:
            times = source.frame_times(video)
        except VideoError:
            continue
        if not len(times):
            continue
        frames = [
            np.any([(first <= times) & (times <= last) for first, last in word.times], axis=0)
            if word.times
            else np.zeros(len(times), bool)
            for word in words
        ]
        texts, roles = [word.text for word in words], [word.role for word in words]
        out[record.video_id, record.text] = WordTruth(texts, roles, np.asarray(frames))
    return out


def _caption(place: str, line: Any) -> tuple[tuple[str, str], list[TimedWord]]:
    """Returns the video id and caption of a line, and all words of the caption."""
    if not (
        isinstance(line, dict)
        and isinstance(line.get("video_id"), str)
        and isinstance(line.get("caption"), str)
        and isinstance(line.get("words"), list)
    ):
        raise DataError(place, shown(line), f"an object such as {_FORMAT}", "correct the line")
    # A hyphen separates words, an apostrophe does not.
    words = [TimedWord(text) for text in re.findall(r"[^\W_]+(?:'[^\W_]+)*", clean(line["caption"]))]
    start = 0
    for entry in line["words"]:
        word = _word(place, entry)
        match = next((at for at in range(start, len(words)) if words[at].text == word.text), None)
        if match is None:
            raise DataError(
                place,
                f"the word {shown(word.text)}",
                f"words of the caption {shown(line['caption'])}, in its order",
                "correct the word or the order",
            )
        words[match], start = word, match + 1
    return (line["video_id"], line["caption"]), words


def _word(place: str, entry: Any) -> TimedWord:
    if not (
        isinstance(entry, dict)
        and isinstance(entry.get("text"), str)
        and isinstance(entry.get("role"), str)
        and entry["role"]
        and isinstance(entry.get("times"), list)
        and all(_is_span(span) for span in entry["times"])
    ):
        wanted = "a text, a role that is not empty, and times [[from, to], ...] in seconds with 0 <= from <= to"
        raise DataError(place, f"the word {shown(entry)}", wanted, "correct the word")
    return TimedWord(
        clean(entry["text"]), entry["role"], [(float(first), float(last)) for first, last in entry["times"]]
    )


def _is_span(span: Any) -> bool:
    return (
        isinstance(span, list)
        and len(span) == 2
        and all(isinstance(time, int | float) and not isinstance(time, bool) for time in span)
        # False for NaN and for infinity.
        and 0 <= span[0] <= span[1] < float("inf")
    )
