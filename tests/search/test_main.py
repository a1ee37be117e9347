"""The commands: what they print and write, their exit codes, and their messages."""

import io
import json
import os
import re
import sys
import threading

import pytest

from hbi_jax import pretrained
from hbi_jax.fields import plain
from hbi_jax.search import __main__ as command
from tests.search.conftest import MODEL, parameters

TEXT = "a red square slides left"


@pytest.fixture(autouse=True)
def _logging(monkeypatch):
    """Leaves the tests' own logging alone."""
    monkeypatch.setattr(command.apply, "start_logging", lambda verbose: None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Converted weights, as of a published checkpoint."""
    folder = tmp_path_factory.mktemp("weights") / "hbi"
    pretrained.save(folder, pretrained.Pretrained("hbi", plain(MODEL), parameters()))
    return folder


@pytest.fixture
def indexed(weights, videos, tmp_path, capsys):
    """An index that the command made, its folder of videos, and what was said."""
    place = tmp_path / "my.index"
    arguments = [str(place), f"--checkpoint={weights}", "--num_words=12", "--num_frames=5", str(videos)]
    assert command.main(["index", *arguments]) == 0
    return place, videos, capsys.readouterr()


def test_videos_are_indexed_found_and_shown(indexed, tmp_path, capsys):
    place, _, said = indexed
    assert said.out.startswith(f"{place}: 5 videos, ")
    assert "(5 added, 0 updated, 0 unchanged, 0 dropped, 0 unreadable)" in said.out
    assert re.search(r"index 5 videos, kB \d+/\d+ 100.0%", said.err)
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    rows.write_text("of an earlier time\n")
    assert command.main(["find", str(place), TEXT, "--top=3", f"--jsonl={rows}", f"--html={page}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(lines) == len(found) == 3
    for line, moment in zip(lines, found, strict=True):
        assert line.split() == [
            *(f"{moment['score']:.3f}", moment["video"]),
            *f"{moment['focus'][0]:.1f} to {moment['focus'][1]:.1f} s".split(),
            *f"(clip {moment['start']:.1f} to {moment['end']:.1f} s)".split(),
        ]
        assert moment["words"][-1] == "(whole text)"
    assert page.read_text().count('<section class="card">') == 3


def test_any_number_of_results_can_be_asked_for(indexed, tmp_path, capsys):
    place, videos, _ = indexed
    texts = tmp_path / "captions.txt"
    texts.write_text(f"{TEXT}\na blue circle spins\n")
    for most in (10**11, 10**30):
        assert command.main(["find", str(place), TEXT, f"--top={most}"]) == 0
        like = f"--like={next(videos.rglob('long.mp4'))}"
        assert command.main(["find", str(place), like, f"--top={most}"]) == 0
        assert command.main(["find", str(place), like, f"--texts={texts}", f"--top={most}"]) == 0
    assert "error" not in capsys.readouterr().err


def test_the_page_goes_where_a_link_or_a_pipe_leads(indexed, tmp_path):
    place, _, _ = indexed
    page, link, pipe, got = tmp_path / "page.html", tmp_path / "link.html", tmp_path / "pipe", []
    link.symlink_to(page.name)
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    for file in (link, pipe):
        assert command.main(["find", str(place), TEXT, f"--html={file}"]) == 0
    reader.join(60)
    assert link.is_symlink()
    assert got == [page.read_text()]


def test_a_result_is_one_line_whatever_its_file_is_called(indexed, capsys):
    place, videos, _ = indexed
    next(videos.rglob("long.mp4")).rename(videos / "two\nlines\x1b[2J.mp4")
    (videos / "bad\nname.mp4").write_bytes(b"no video")
    assert command.main(["index", str(place), str(videos)]) == 1
    assert f"unreadable: {videos}/bad\\nname.mp4: Invalid data" in capsys.readouterr().err
    assert command.main(["find", str(place), TEXT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r" *-?\d\.\d{3}  /.*\.mp4  ", line) for line in lines)
    assert sum(f"{videos}/two\\nlines\\x1b[2J.mp4" in line for line in lines) > 0


def test_commands_to_copy_are_quoted(indexed, tmp_path, capsys):
    place, _, _ = indexed
    out = tmp_path / "an app"
    assert command.main(["vespa", str(place), str(out)]) == 0
    assert f"to use them: vespa deploy '{out}'; vespa feed '{out}/feed.jsonl'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "most"),
    [("--port=99999", 65535), ("--port=0", 65535), ("--port=a", 65535), ("--upload_megabytes=-1", 10**6)],
)
def test_numbers_that_serve_cannot_use_are_refused_at_once(option, most, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["serve", "/no/such/index", option])
    name, got = option.split("=")
    wanted = f"error: argument {name}: got {got}, wanted a whole number from 1 to {most}; choose one"
    assert wanted in capsys.readouterr().err


def test_by_example_and_the_texts_of_a_video(indexed, tmp_path, capsys):
    place, videos, _ = indexed
    video = str(next(videos.rglob("long.mp4")))
    assert command.main(["find", str(place), f"--like={video}", "--top=1"]) == 0
    capsys.readouterr()
    texts = tmp_path / "captions.txt"
    texts.write_text(f"\ufeff{TEXT}\n\na blue circle spins\n", encoding="utf-8")
    assert command.main(["find", str(place), f"--like={video}", f"--texts={texts}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(maxsplit=1)[1] for line in lines} == {TEXT, "a blue circle spins"}
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    for top in (0, -1):
        assert command.main(["find", str(place), f"--like={video}", f"--texts={texts}", f"--top={top}"]) == 1
        assert f"error: top={top}: wanted 1 text or more" in capsys.readouterr().err
    texts.write_bytes(b"a caf\xe9")
    assert command.main(["find", str(place), f"--like={video}", f"--texts={texts}"]) == 1
    assert f"error: {texts}" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_files_whose_names_are_not_unicode(indexed, tmp_path, monkeypatch):
    place, videos, _ = indexed
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    strange = os.fsdecode(b"caf\xe9.mp4")
    for path in videos.rglob("*.mp4"):
        path.unlink() if path.name != "long.mp4" else path.rename(videos / strange)
    assert command.main(["index", str(place), str(videos)]) == 0
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    assert command.main(["find", str(place), TEXT, "--top=1", f"--jsonl={rows}", f"--html={page}"]) == 0
    sys.stdout.flush()
    assert b"/caf\xe9.mp4  " in raw.getvalue()
    assert json.loads(rows.read_text())["video"] == str(videos / strange)
    assert "videos/caf%E9.mp4#t=" in page.read_text()
    assert "caf\\udce9.mp4" in page.read_text()


@pytest.mark.parametrize(("field", "size"), [("num_frames", 1), ("num_words", 100)])
def test_sizes_that_the_model_cannot_take_make_no_index(weights, videos, tmp_path, capsys, field, size):
    place = tmp_path / "my.index"
    sizes = {"num_words": 12, "num_frames": 5} | {field: size}
    given = [f"--{name}={value}" for name, value in sizes.items()]
    assert command.main(["index", str(place), f"--checkpoint={weights}", *given, str(videos)]) == 1
    assert re.match(rf"error: search.{field}={size}: wanted a number that the model takes", capsys.readouterr().err)
    assert not place.exists()


def test_unreadable_files_are_named_and_the_exit_code_tells(indexed, capsys):
    place, videos, _ = indexed
    (videos / "broken.mp4").write_bytes(b"no video")
    assert command.main(["index", str(place), str(videos)]) == 1
    said = capsys.readouterr()
    assert f"unreadable: {videos / 'broken.mp4'}: Invalid data" in said.err
    assert "(0 added, 0 updated, 5 unchanged, 0 dropped, 1 unreadable)" in said.out


def test_another_model_is_told_by_its_digest(indexed, tmp_path, capsys):
    place, videos, _ = indexed
    other = dict(parameters())
    other["params"] = other["params"] | {"logit_scale": other["params"]["logit_scale"] + 1}
    pretrained.save(tmp_path / "other", pretrained.Pretrained("hbi", plain(MODEL), other))
    assert command.main(["index", str(place), f"--checkpoint={tmp_path / 'other'}", str(videos)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"other is another model \(digest \w{12}\) than that of the index .*; give the model of", error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["find", "i"], "got neither of a text and --like, wanted one of them"),
        (["find", "i", "a text", "--like=a.mp4"], "got both of a text and --like"),
        (["find", "i", "a text", "--texts=a.txt"], "--texts: wanted with --like=VIDEO"),
        (["find", "i", "--like=a.mp4", "--texts=a.txt", "--html=b.html"], "--html shows moments"),
        (["find", "/no/such/index", "a text"], "/no/such/index is no index: it has no index.json; make one"),
        (["index", "/no/such/index", "videos"], "/no/such/index is no index"),
        (["index", "i", "videos", "--worker=3"], "worker=3 without workers: wanted how many there are"),
        (["search", "i"], "got search, wanted one of index, find, serve, vespa"),
        ([], "got no command, wanted one of index, find, serve, vespa"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {message}")
    assert len(said.err.splitlines()) == 1


def test_help_describes_every_setting(capsys):
    assert command.main(["--help"]) == 0
    assert "find my.index" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["index", "--help"])
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in ("clip_seconds", "stride_seconds", "cut", "engine", "worker", "finish"))
