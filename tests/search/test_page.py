"""The page of results: what it holds, that it needs nothing else, and that nothing in it runs that should not."""

import html.parser
import os
import pathlib
import re
import urllib.parse

import numpy as np
import pytest

from hbi_jax.search.heatmap import heatmap
from hbi_jax.search.moments import Moment
from hbi_jax.search.page import embedded_page, relative_address, write_page

EVIL = '<script>alert("1")</script>'


class Reader(html.parser.HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, name, **wanted):
        return [found for tag, found in self.tags if tag == name and wanted.items() <= found.items()]


def moment(video, **changes):
    values = np.array([[0.1, -0.2, 0.4], [0.0, 0.1, 0.2]], np.float32)
    return Moment(str(video), 0.0, 3.0, 0.875, ("red", EVIL), (0.0, 1.0, 2.0), values)._replace(**changes)


@pytest.fixture
def page(rendered, tmp_path):
    """The page of a video that is there, and of one that is not."""
    there = min(rendered.glob("video*.mp4"))
    file = tmp_path / "out" / "result.html"
    write_page(file, f"a query {EVIL}", [moment(there), moment(tmp_path / "gone & away.mp4")], 1234)
    return there, file, Reader(file.read_text())


def test_a_card_leads_to_the_moment(page):
    there, file, read = page
    (video,) = read.all("video")
    address, _, fragment = video["src"].partition("#")
    assert (file.parent / urllib.parse.unquote(address)).resolve() == there.resolve()
    assert fragment == "t=2.000,3.000"
    assert video["poster"].startswith("data:image/jpeg;base64,")
    assert "1. " + there.name + ", 0:02.0 to 0:03.0" in read.text
    assert "The 2 best moments of 1,234 clips." in read.text
    links = read.all("a")[:3]
    assert [link["href"] for link in links] == [f"{address}#t={time}" for time in ("0.000", "1.000", "2.000")]
    assert [link["class"] for link in links] == ["frame", "frame", "frame best"]
    assert links[2]["aria-label"] == "jump to 2.0 s, the strongest frame"


def test_a_video_that_is_gone_says_so_and_keeps_its_reasons(page):
    _, _, read = page
    assert "cannot be shown (No such file or directory: it was moved, removed or damaged" in read.text
    assert "2. gone & away.mp4" in read.text
    assert len(read.all("a")) == 6
    assert len(read.all("image")) == 3


def test_the_page_is_one_file_and_runs_only_its_own_script(page):
    _, file, read = page
    assert len(read.all("script")) == 1
    assert f"a query {EVIL}" in read.text
    text = file.read_text()
    assert EVIL not in text
    assert not re.findall(r'(?:href|src|url\()=?"?(?:https?:)?//', text)
    assert "prefers-color-scheme: dark" in text
    assert [path.name for path in file.parent.iterdir()] == ["result.html"]


def test_a_notebook_gets_the_videos_in_the_page_or_only_their_frames(rendered):
    there = min(rendered.glob("video*.mp4"))
    whole = Reader(embedded_page([moment(there)]))
    assert whole.all("video")[0]["src"].startswith("data:video/mp4;base64,")
    assert {link["href"] for link in whole.all("a")} == {"#"}
    small = Reader(embedded_page([moment(there)], largest=10))
    assert (len(small.all("video")), len(small.all("img")), len(small.all("image"))) == (0, 1, 3)


def test_an_empty_result_says_so(tmp_path):
    write_page(tmp_path / "result.html", "a query", [], 0)
    assert "Nothing was found: the index holds no clips." in (tmp_path / "result.html").read_text()


def test_cells_have_the_sign_and_share_of_the_interaction():
    drawn = Reader(heatmap(("red", "ball"), (0.0, 1.0), np.array([[0.5, -0.25], [0.0, 0.1]]), "v.mp4#t={:.0f}".format))
    cells = [(tag["class"], float(tag["fill-opacity"])) for tag in drawn.all("rect") if tag["class"] != "hit"]
    assert cells == [("more", 1.0), ("more", 0.0), ("less", 0.5), ("more", 0.2)]
    assert [link["href"] for link in drawn.all("a")] == ["v.mp4#t=0", "v.mp4#t=1"]
    assert "red, 1.0 s: -0.2500" in drawn.text


def test_names_of_files_are_quoted(tmp_path):
    assert relative_address(str(tmp_path / 'a #1 "é".mp4'), tmp_path / "pages") == "../a%20%231%20%22%C3%A9%22.mp4"
    assert relative_address(os.fspath(tmp_path / "a.mp4"), pathlib.Path(tmp_path)) == "a.mp4"
    assert relative_address(os.fsdecode(b"/v/caf\xe9.mp4"), pathlib.Path("/v")) == "caf%E9.mp4"
