import csv
import json
import pathlib

import numpy as np
import pytest

from hbi_jax.data.text import END, START, Tokenizer, clean

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"

PUBLISHED, ANNOTATIONS = SHARED / "golden" / "tokens.npz", SHARED / "data" / "msrvtt"
CAPTIONS, QUESTIONS = ANNOTATIONS / "MSRVTT_JSFUSION_test.csv", ANNOTATIONS / "val.jsonl"


def _needs(*files):
    missing = [file.name for file in files if not file.is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} of MSR-VTT are not here")


def _compare(texts, ids, lengths):
    token_ids, mask = Tokenizer(32).encode(texts)
    np.testing.assert_array_equal(token_ids, ids)
    np.testing.assert_array_equal(mask.sum(axis=1), lengths)
    np.testing.assert_array_equal(mask, np.arange(32) < np.asarray(lengths)[:, None])


def test_odd_strings_have_the_published_ids():
    golden = np.load(GOLDEN / "tokens_odd.npz")
    texts = json.loads((GOLDEN / "tokens_odd.json").read_text())["odd"]
    _compare(texts, golden["odd_ids"], golden["odd_len"])


@_needs(PUBLISHED, CAPTIONS)
def test_msrvtt_captions_have_the_published_ids():
    golden = np.load(PUBLISHED)
    with open(CAPTIONS, encoding="utf-8") as file:
        captions = [row["sentence"] for row in csv.DictReader(file)]
    assert len(captions) == 1000
    _compare(captions, golden["captions_ids"], golden["captions_len"])


@_needs(PUBLISHED, QUESTIONS)
def test_msrvtt_questions_have_the_published_ids():
    golden = np.load(PUBLISHED)
    with open(QUESTIONS, encoding="utf-8") as file:
        questions = [json.loads(line)["question"] for line in file][:1000]
    _compare(questions, golden["questions_ids"], golden["questions_len"])


def test_a_long_caption_is_cut_before_its_end_token():
    (full,), _ = Tokenizer(12).encode(["one two three four five six"])
    (cut,), (mask,) = Tokenizer(5).encode(["one two three four five six"])
    assert full.tolist()[0] == START
    assert full.tolist()[7:] == [END, 0, 0, 0, 0]
    assert cut.tolist() == [*full.tolist()[:4], END]
    assert mask.all()


def test_truncated_counts_captions_that_lose_words():
    texts = ["one two three", "one two three four", "", "a b c d e f"]
    assert Tokenizer(5).truncated(texts) == 2
    assert Tokenizer(6).truncated(texts) == 1
    assert Tokenizer(8).truncated(texts) == 0


def test_decode_inverts_encode():
    texts = ["a café, naïve!", "你好 world 🐶", "it's 3 dogs"]
    token_ids, _ = Tokenizer(32).encode(texts)
    decoded = [Tokenizer(32).decode(row) for row in token_ids]
    assert decoded == ["a café, naïve!", "你好 world 🐶", "it's 3 dogs"]


def test_a_control_token_written_out_in_a_caption_is_text():
    (ids,), _ = Tokenizer(16).encode(["cut <|endoftext|> here"])
    assert ids.tolist().count(END) == 1
    assert Tokenizer(16).decode(ids) == "cut <| endoftext |> here"


def test_no_texts_give_no_rows():
    token_ids, mask = Tokenizer(7).encode([])
    assert token_ids.shape == mask.shape == (0, 7)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("  A\tB\n c ", "a b c"), ("x<y &amp;lt; z", "x<y < z"), ("&nbsp; \n", ""), ("doesnâ€™t", "doesn't")],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


def test_a_row_has_room_for_a_word():
    with pytest.raises(ValueError, match="num_words: got 2, wanted at least 3"):
        Tokenizer(2)


@pytest.mark.parametrize(
    "text",
    ["a red circle spins, then a dog's ball rolls.", "they're here; who isn't?", "3 . 5", "a - b ( c )", "wow!", ""],
)
def test_decode_puts_blanks_where_english_has_them(text):
    (ids,), _ = Tokenizer(24).encode([text])
    assert Tokenizer(24).decode(ids) == text.replace("3 . 5", "3. 5")
