"""Pointing: whether a word's interaction lies in the frames, or patches of a frame, that show what it refers to."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hbi_jax.report.report import Column, Table, TableRow

# Who the words play with.
Players = Literal["frames", "patches"]
# Resamples of the videos for an interval, and the percentiles that it covers.
_RESAMPLES, _COVERED = 1000, (2.5, 97.5)
_ALL = "all words"
_MASS: Mapping[Players, str] = {
    "frames": "Mass inside: the share of a word's positive values in the frames that show what it refers to, averaged "
    "over words. A word without a positive value counts as uniform. Words whose every sampled frame is true, or none, "
    "are left out, and so are actions of videos of the embedded world with one event.",
    "patches": "Pointing in space: words play with the patches of one frame, the middle one of the sampled frames in "
    "which their event happens and its object is visible. True patches have their centre in the object's box. Words "
    "whose box holds no centre, or all, are left out.",
}
_COLUMNS = (
    Column("from", "From, to: 95 % interval of the mass inside, by resampling videos."),
    Column("to"),
    Column("uniform, %", "Uniform: the share of true frames (patches), which a word would reach that points nowhere."),
    Column(
        "AUC",
        "AUC: how often a true frame (patch) has a larger value than a false one; ties count half, chance is 0.5.",
    ),
    Column("words"),
)


class WordTruth(NamedTuple):
    """The ground truth of the words of a caption.

    Attributes:
      words: The caption's words, without punctuation.
      roles: What each word tells, such as "color"; empty for words that refer to nothing.
      frames: True at the sampled frames, or the patches of a frame, that each word refers to.
    """

    words: Sequence[str]
    roles: Sequence[str]
    frames: Bool[np.ndarray, "w f"]

    def of_tokens(self, tokens: Sequence[str]) -> Bool[np.ndarray, "t f"]:
        """Returns the frames that each token refers to: those of its word; none for punctuation and cut words."""
        numbers = word_of_tokens(tokens, self.words)
        return np.where(numbers[:, None] < 0, False, self.frames[numbers])


# The ground truth of captions, by video id and caption.
Truths = Mapping[tuple[str, str], WordTruth]


class Pointed(NamedTuple):
    """Where a word points.

    Attributes:
      role: What the word tells.
      video: Identifies the video of the word.
      mass: Share of its positive values inside the true frames or patches.
      uniform: Share of true frames or patches.
      auc: Probability that a true frame or patch has a larger value than a false one.
    """

    role: str
    video: int
    mass: float
    uniform: float
    auc: float


def word_of_tokens(tokens: Sequence[str], words: Sequence[str]) -> Int[np.ndarray, " t"]:
    """Returns the number of the word that each token is a part of; -1 for punctuation and for words that are cut off.

    Words are found by their letters and digits. A word with a character that takes several tokens has none, as each of
    them alone is no text.
    """
    numbers, texts = np.full(len(tokens), -1), [*map(_letters, words), ""]
    word, left, places = 0, texts[0], []
    for place, token in enumerate(tokens):
        text = _letters(token)
        if not text:
            continue
        if not left.startswith(text):
            later = next((number for number in range(word + 1, len(words)) if texts[number].startswith(text)), None)
            if later is None:
                continue
            word, left, places = later, texts[later], []
        left, places = left.removeprefix(text), [*places, place]
        if not left:
            numbers[places] = word
            word, left, places = word + 1, texts[word + 1], []
    return numbers


def _letters(text: str) -> str:
    """Returns the letters and digits of a text, in lower case and without variants of the same character."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).lower()))


def by_word(
    values: Float[np.ndarray, "t f"], tokens: Sequence[str], words: Sequence[str]
) -> dict[int, Float[np.ndarray, " f"]]:
    """Returns the sum of the values of each word's tokens, by the number of the word; none for words cut off."""
    numbers = word_of_tokens(tokens, words)
    return {number: values[numbers == number].sum(0) for number in sorted(set(numbers.tolist()) - {-1})}


def point(values: Float[np.ndarray, "t f"], tokens: Sequence[str], truth: WordTruth, video: int) -> list[Pointed]:
    """Returns where the words of a caption point that refer to some of the frames or patches, but not to all.

    Args:
      values: Interactions, or what is compared with them, of every token with every frame or patch. Those of the tokens
        of a word are added.
      tokens: The tokens.
      truth: The ground truth of the words.
      video: Identifies the video.
    """
    rows, found = by_word(values, tokens, truth.words), []
    for number, (role, true) in enumerate(zip(truth.roles, truth.frames, strict=True)):
        if not role or true.all() or not true.any() or number not in rows:
            continue
        row = rows[number]
        positive, uniform = np.maximum(row, 0), float(true.mean())
        mass = float(positive[true].sum() / positive.sum()) if positive.any() else uniform
        gaps = np.subtract.outer(row[true], row[~true])
        found.append(Pointed(role, video, mass, uniform, float(np.mean(gaps > 0) + np.mean(gaps == 0) / 2)))
    return found


def tables(
    name: str, methods: Mapping[str, Sequence[Pointed]], details: bool = False, players: Players = "frames"
) -> list[Table]:
    """Returns a table of the words of each method by role; no table if no word refers to a part of its video.

    Args:
      name: The heading.
      methods: The words of each method, the run's own first.
      details: Whether the table has no headline.
      players: Who the words play with.
    """
    own, *_ = methods.values()
    roles = (*sorted({word.role for word in own}), _ALL)
    rows = [
        TableRow(f"{method}: {role}", _values([word for word in words if role in (word.role, _ALL)]))
        for method, words in methods.items()
        for role in roles
        if words
    ]
    if not rows:
        return []
    columns = (Column("mass inside, %", _MASS[players]), *_COLUMNS)
    if details:
        return [Table(name, "", columns, rows)]
    shares = [
        f"{role} **{row.values[0]:.1f} %** (uniform {row.values[3]:.1f} %)"
        for role, row in zip(roles, rows[: len(roles)], strict=True)
    ]
    headline = f"**{name}**: share of the interaction inside the true {players}: {', '.join(shares)}."
    return [Table(name, headline, columns, rows)]


def _values(words: Sequence[Pointed]) -> tuple[float | int, ...]:
    """Returns the values of the columns."""
    mass, uniform, auc = (
        float(np.mean([getattr(word, name) for word in words])) for name in ("mass", "uniform", "auc")
    )
    return 100 * mass, *_interval(words), 100 * uniform, auc, len(words)


def _interval(words: Sequence[Pointed]) -> tuple[float, float]:
    """Returns the bootstrap interval of the mean mass in percent, by resampling videos with all their words."""
    _, video = np.unique([word.video for word in words], return_inverse=True)
    count = np.bincount(video)
    total = np.bincount(video, [word.mass for word in words])
    drawn = np.random.default_rng(0).integers(len(count), size=(_RESAMPLES, len(count)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.percentile(100 * means, _COVERED)
    return float(low), float(high)
