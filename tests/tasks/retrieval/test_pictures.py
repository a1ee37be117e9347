"""Names of pictures."""

import pytest

from hbi_jax.report.report import Picture
from hbi_jax.tasks.retrieval.pictures import _file


@pytest.mark.parametrize("letter", ["a", "映"])
def test_long_ids_have_files_of_their_own(tmp_path, letter):
    pictures = []
    for ending in "xyz":
        path = _file(tmp_path, f"interaction_{(250 // len(letter.encode())) * letter}{ending}", pictures)
        path.write_bytes(b"")
        pictures.append(Picture(str(path), ""))
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert len(names) == 3
    assert all(name.startswith(f"interaction_{letter}") for name in names)


def test_a_short_id_is_whole(tmp_path):
    assert _file(tmp_path, "interaction_cat", []) == tmp_path / "interaction_cat.png"
