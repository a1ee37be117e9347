"""Folders for annotations and videos, to be filled."""

import pytest


@pytest.fixture
def folders(tmp_path):
    """Makes both folders with the given files: annotations by name, and empty videos."""

    def make(annotations, videos):
        for name, content in annotations.items():
            path = tmp_path / "annotations" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for name in videos:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return {"annotations": tmp_path / "annotations", "videos": tmp_path / "videos"}

    return make
