"""Caption scores computed by pycocoevalcap: BLEU, METEOR, ROUGE-L and CIDEr."""

import contextlib
import functools
import importlib.util
import os
import pathlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pycocoevalcap.meteor.meteor import Meteor

NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
REMEDY = "pip install hbi_jax[caption]"
PENN, PLAIN = "the Penn Treebank tokenizer of CoreNLP", "a plain tokenizer, which needs no Java"

# Java formats numbers and lowercases text by locale. METEOR cannot read its own data in a locale with decimal commas.
_OPTIONS = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Duser.language.format=en",
    "-Duser.country.format=US",
    "-Dfile.encoding=UTF-8",
    # The virtual machine reports its own failures on standard error, so that they do not mix with the results.
    "-XX:+DisplayVMOutputToStderr",
)
# Messages of a Java program that runs out of memory.
_MEMORY = re.compile(
    r"OutOfMemoryError|ould not (reserve|allocate)|insufficient memory|Cannot allocate memory|Not enough space"
)
# Seconds to wait for a failed program to exit.
_LAST_WORDS = 5

# Splits words as in the Penn Treebank: "don't" into "do n't", "cannot" into "can not", "man's" into "man 's";
# "t-shirt" stays one word.
_WORD = re.compile(r"n't\b|can(?=not\b)|'\w+|\d+(?:[.,]\d+)+|\w+?(?=n't\b)|\w+(?:-\w+)*")


class JavaError(RuntimeError):
    """A failure of a Java program; the message gives the reason."""


class CaptionScores(NamedTuple):
    """The scores of captions against their references.

    Attributes:
      values: The computed scores, in percent, by their name in `NAMES`.
      not_run: The reason and the remedy for each score that was not computed, by name.
      tokenizer: The tokenizer that split captions into words; empty if nothing was computed.
    """

    values: dict[str, float]
    not_run: dict[str, str]
    tokenizer: str


def is_installed() -> bool:
    """Returns whether pycocoevalcap is installed."""
    return importlib.util.find_spec("pycocoevalcap") is not None


def caption_scores(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], java: bool = True
) -> CaptionScores:
    """Scores one caption per video against all references of the video.

    METEOR and the standard tokenizer are Java programs. If Java does not run, METEOR is left out and the other scores
    use a plain tokenizer. An empty caption scores 0. CIDEr weights words by how few videos they describe, so it is 0
    for a single video.

    Args:
      captions: One caption per video.
      references: At least one reference per captioned video; may contain other videos.
      java: Whether to use Java. False is faster and gives the same scores on every machine.

    Raises:
      ValueError: If there are no captions, or a captioned video has no reference.
    """
    if not captions:
        raise ValueError("there are 0 captions, wanted at least 1; caption some videos before scoring them")
    if missing := [video for video in captions if not references.get(video)]:
        others = f" and {len(missing) - 1} others" if missing[1:] else ""
        raise ValueError(f"references: got none of video {missing[0]!r}{others}, wanted one or more; leave it out")
    if not is_installed():
        return CaptionScores({}, dict.fromkeys(NAMES, f"pycocoevalcap is not installed: {REMEDY}"), "")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    owners = [video for video in captions for _ in references[video]]
    texts = [*captions.values(), *(text for video in captions for text in references[video])]
    texts = [" ".join(text.split()) for text in texts]
    cut, tokenizer, not_run = [_plain(text) for text in texts], PLAIN, {}
    try:
        if java:
            cut, tokenizer = _penn(texts), PENN
        else:
            not_run = {"METEOR": "it needs Java, which was not requested"}
    except JavaError as error:
        not_run = {"METEOR": str(error)}
    given = {video: [text] for video, text in zip(captions, cut, strict=False)}
    right: dict[str, list[str]] = {video: [] for video in captions}
    for video, text in zip(owners, cut[len(captions) :], strict=True):
        right[video].append(text)

    values = dict(zip(NAMES, Bleu(4).compute_score(right, given, verbose=0)[0], strict=False))
    if not not_run:
        try:
            values["METEOR"] = _meteor_score(right, given)
        except JavaError as error:
            not_run = {"METEOR": str(error)}
    values["ROUGE-L"] = Rouge().compute_score(right, given)[0]
    values["CIDEr"] = Cider().compute_score(right, given)[0]
    return CaptionScores({name: 100 * float(value) for name, value in values.items()}, not_run, tokenizer)


def _plain(text: str) -> str:
    """Returns the words in lower case, without punctuation."""
    return " ".join(_WORD.findall(text.lower()))


def _penn(texts: Sequence[str]) -> list[str]:
    """Tokenizes texts with CoreNLP.

    Calls CoreNLP directly, because pycocoevalcap's own wrapper writes into its package folder.

    Raises:
      JavaError: If Java does not run or returns a different number of lines.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = pathlib.Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    given = "".join(f"{text}\n" for text in texts).encode()
    with _java(command) as java:
        out, err = java.communicate(given)
    if java.returncode:
        raise JavaError(_cause(java.returncode, err))
    found = out.decode().split("\n")
    if len(found) != len(texts) + 1:
        raise JavaError(
            f"the command `java` returned {len(found) - 1} lines for {len(texts)}: it is not Java; correct PATH"
        )
    return [" ".join(word for word in line.split() if word not in ptbtokenizer.PUNCTUATIONS) for line in found[:-1]]


@functools.cache
def _meteor() -> "Meteor":
    """Returns METEOR's Java process. It is cached because it takes seconds to start, and ends with this process."""
    from pycocoevalcap.meteor import meteor

    class English(meteor.Meteor):
        """METEOR in a fixed locale, with its errors in a file: pycocoevalcap never reads its error pipe."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115
            self.meteor_cmd = ["-Xmx2G", "-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
            folder = pathlib.Path(meteor.__file__).parent
            self.meteor_p = _java(self.meteor_cmd, stderr=self.errors, cwd=folder)

        def __del__(self) -> None:
            # Flushing to a program that has already exited fails; the unwritten data is not needed.
            with contextlib.suppress(OSError):
                super().__del__()

    return English()


def _meteor_score(right: Mapping[str, list[str]], given: Mapping[str, list[str]]) -> float:
    """Returns the METEOR score, in 0..1.

    Raises:
      JavaError: If METEOR's program fails.
    """
    meteor = _meteor()
    try:
        return meteor.compute_score(right, given)[0]
    except (OSError, ValueError) as error:
        _meteor.cache_clear()
        # After a failure Meteor still holds its lock, and its destructor would wait for it forever.
        meteor.lock.release()
        try:
            code = meteor.meteor_p.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            raise JavaError(f"METEOR's Java program runs but gave a wrong answer ({error})") from error
        meteor.errors.seek(0)
        raise JavaError(_cause(code, meteor.errors.read())) from error


def _java(arguments: Sequence[str], **options: object) -> subprocess.Popen:
    """Starts a Java program in the US English locale, regardless of the user's locale.

    Raises:
      JavaError: If the command `java` cannot be started.
    """
    environment = dict(os.environ)
    # This variable overrides the command line; Java's other variables do not.
    if own := environment.get("_JAVA_OPTIONS"):
        environment["_JAVA_OPTIONS"] = " ".join((own, *_OPTIONS))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    try:
        return subprocess.Popen(["java", *_OPTIONS, *arguments], env=environment, **(pipes | options))
    except OSError as error:
        raise JavaError(f"Java does not run ({error}): install it, so that the command `java` is found") from error


def _cause(code: int, errors: bytes) -> str:
    """Explains why a Java program ended, from its exit code and its standard error."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Picked up ")]
    said = " ".join(line.strip() for line in lines)[:300] or "it said nothing"
    # A shell reports a signal as 128 + its number.
    signal = -code if code < 0 else code - 128
    ended = f"was killed by signal {signal}" if signal > 0 else f"ended with code {code}"
    memory = signal == 9 or any(_MEMORY.search(line) for line in lines)
    remedy = "METEOR needs 2 GiB of free memory" if memory else "run `java -version` to see whether Java works here"
    return f"its Java program {ended} ({said}): {remedy}"
