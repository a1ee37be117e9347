"""CLIP's tokenizer; the package contains its byte-pair table, so no network is needed."""

import functools
import gzip
import html
import importlib.resources
import re
from collections.abc import Sequence

import ftfy
import numpy as np
import tokenizers
from jaxtyping import Bool, Int

START, END = 49406, 49407
_VOCABULARY = "assets/bpe_simple_vocab_16e6.txt.gz"
# Contractions, runs of letters, single digits, runs of anything else. CLIP's own pattern also turns a literal
# "<|endoftext|>" in a caption into the control token, which would end the sentence there; here it stays text.
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

# A blank that English does not have: before the end of a contraction or before punctuation.
_NO_BLANK = re.compile(r"(?<=\w) (?='(?:s|t|re|ve|m|ll|d)\b|[,.;:!?](?:\s|$))")


class Tokenizer:
    """A tokenizer that turns captions into rows of CLIP's token ids, all of the same length.

    A row is the start token, the caption's tokens, the end token, and zeros. A long caption loses its last tokens; the
    end token is always present.
    """

    def __init__(self, num_words: int):
        """Sets the length of the rows.

        Args:
          num_words: Length of a row, including the start and end tokens.

        Raises:
          ValueError: If `num_words` leaves no room for a word.
        """
        if num_words < 3:
            raise ValueError(f"num_words: got {num_words}, wanted at least 3 (start, one word, end).")
        self.num_words = num_words

    def encode(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
        """Returns the token ids and mask of each text.

        Args:
          texts: Captions; this method applies `clean` to them.

        Returns:
          token_ids: int32, zero at padding.
          mask: True at the start token, the words and the end token.
        """
        token_ids = np.zeros((len(texts), self.num_words), np.int32)
        mask = np.zeros((len(texts), self.num_words), bool)
        for row, words in enumerate(_words(texts)):
            ids = [START, *words[: self.num_words - 2], END]
            token_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return token_ids, mask

    def truncated(self, texts: Sequence[str]) -> int:
        """Returns the number of texts that do not fit into a row and lose their last words."""
        return sum(len(words) > self.num_words - 2 for words in _words(texts))

    def decode(self, token_ids: Sequence[int] | Int[np.ndarray, " t"]) -> str:
        """Returns the cleaned text of a row of ids, up to the first end token.

        Blanks are placed as in English, because CLIP's tokens do not distinguish "a dog, then" from "a dog , then".
        """
        ids = [int(token_id) for token_id in token_ids]
        ids = ids[: ids.index(END)] if END in ids else ids
        text = _byte_pairs().decode([token_id for token_id in ids if token_id != START])
        return _NO_BLANK.sub("", text.replace("</w>", " ")).strip()


def clean(text: str) -> str:
    """Returns a caption as CLIP's tokenizer sees it: encoding repaired, HTML unescaped, one line, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


def _words(texts: Sequence[str]) -> list[list[int]]:
    encodings = _byte_pairs().encode_batch([clean(text) for text in texts], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


@functools.cache
def _byte_pairs() -> tokenizers.Tokenizer:
    """Returns the byte-pair encoder, built from CLIP's table of merges.

    The vocabulary, in the order of the ids: the 256 bytes, the 256 bytes at the end of a word, the result of every
    merge, the start token, the end token.
    """
    table = (importlib.resources.files("hbi_jax.data") / _VOCABULARY).read_bytes()
    lines = gzip.decompress(table).decode("utf-8").split("\n")
    symbols = _byte_symbols()
    num_merges = START - 2 * len(symbols)
    merges = [tuple(line.split()) for line in lines[1 : num_merges + 1]]
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    encoder = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={token: number for number, token in enumerate(vocabulary)},
            merges=merges,
            end_of_word_suffix="</w>",
        )
    )
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_WORD), behavior="removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = tokenizers.decoders.ByteLevel()
    return encoder


def _byte_symbols() -> list[str]:
    """Returns a printable character for each byte, in the order of CLIP's vocabulary (printable bytes first)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    return [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
