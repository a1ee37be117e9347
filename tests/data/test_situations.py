"""Every situation, container and codec; those of a few kinds are quick enough for every run."""

import pytest

from tests.data import situations

_QUICK = (".mp4 x264", ".mkv x264", ".webm vpx", ".avi mpeg4", ".ts x264", ".gif gif")
_ALL = [(situation, kind) for situation in situations.SITUATIONS for kind in situations.KINDS if situation.holds(kind)]


def _case(situation, kind):
    marks = () if str(kind) in _QUICK and situation.files == 1 else (pytest.mark.slow,)
    return pytest.param(situation, kind, id=f"{situation.name}, {kind}", marks=marks)


@pytest.mark.parametrize(("situation", "kind"), [_case(*case) for case in _ALL])
def test_it_is_read_as_a_player_shows_it(situation, kind, tmp_path):
    situation.check(tmp_path, kind)


def test_the_table_of_the_document_is_that_of_these_files():
    assert situations.num_files() >= 120
    text = situations.DOCUMENT.read_text()
    wanted = situations.table({(situation.name, kind): True for situation, kind in _ALL})
    assert f"<!-- situations -->\n{wanted}<!-- /situations -->" in text
    assert f"{situations.num_files()} files" in text
