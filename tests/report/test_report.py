"""The report: what its two files hold, cell by cell, and that a failure replaces nothing."""

import dataclasses
import io
import json
import os
import pathlib
import re
import sys

import flax
import jax
import numpy as np
import pytest

from hbi_jax.metrics import chance_metrics, retrieval_metrics
from hbi_jax.report.report import (
    Column,
    Environment,
    Gallery,
    Picture,
    Report,
    Row,
    Table,
    TableRow,
    Training,
    current_environment,
)
from hbi_jax.report.write import headline, markdown, print_summary, report_json, summary, write_report

NUMBER = r"\d[\d,]*\.\d"


def metrics_of(noise, count=200):
    rng = np.random.default_rng(0)
    return retrieval_metrics(np.eye(count) + noise * rng.normal(size=(count, count)), np.arange(count))


def example(**changes):
    trained = metrics_of(0.5)
    random = Gallery(
        name="random test videos",
        texts=200,
        videos=200,
        chance=chance_metrics(200),
        rows=(Row("HBI, trained", trained), Row("untrained", metrics_of(50.0)), Row("mean|pooling", trained)),
    )
    twins = Gallery(
        name="near-twins",
        texts=100,
        videos=100,
        chance=chance_metrics(100),
        rows=[Row("HBI, trained", metrics_of(0.4, 100), 61.25), Row("untrained", metrics_of(9.0, 100), None)],
        group_chance=25.0,
        note="Groups of four share their entities.",
    )
    report = Report(
        title="Quickstart",
        command="python -m hbi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart",
        config={"train": {"steps": 600, "rate": 1e-4}, "levels": ("entity", "action"), "cap": float("inf")},
        environment=Environment("TPU v4", 8, "0.1.0", "3.11.7", "0.10.2", "0.12.8"),
        dataset={"train videos": 1200, "test videos": 202},
        galleries=(random, twins),
        protocol=("Ties count against the method.", "Rsum adds R@1, R@5 and R@10 of both directions."),
        training=Training(600, 241.26, 3.14159, 17.04, 1_234_567, 2.04),
        unreadable={"video7012": "no video stream", "video0003": "truncated:\n5 of 12 | frames"},
    )
    return dataclasses.replace(report, **changes)


def tables(text):
    """The cells of every table, by the heading above it; repeated headings get the gallery's in front."""
    found, section, heading = {}, "", ""
    for line in text.splitlines():
        if line.startswith("#"):
            level, heading = line.split(" ", 1)
            if level == "##":
                section = heading
            elif level == "###":
                heading = f"{section} / {heading}"
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return found


def test_json_holds_the_whole_report(tmp_path):
    report = example()
    write_report(tmp_path, report)
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert read["title"] == "Quickstart"
    assert read["config"] == {
        "train": {"steps": 600, "rate": 1e-4},
        "levels": ["entity", "action"],
        "cap": "inf",
    }
    row = read["galleries"][0]["rows"][0]
    assert row == {"method": "HBI, trained", "metrics": metrics_of(0.5), "group_accuracy": None}
    assert read["galleries"][1]["rows"][0]["group_accuracy"] == 61.25
    assert read["galleries"][1]["group_chance"] == 25.0
    assert read["unreadable"] == report.unreadable
    # A part of it can be put into the next report, as after a re-evaluation.
    assert Training(**read["training"]) == report.training
    assert sorted(os.listdir(tmp_path)) == ["report.json", "report.md"]


def test_markdown_tables_cell_by_cell():
    text = markdown(example())
    found = tables(text)
    table = found["Random test videos / Text to video"]
    assert table[0] == ["method", "R@1", "R@5", "R@10", "R@50", "MdR", "MnR"]
    assert table[1] == ["---", *["---:"] * 6]
    assert [row[0] for row in table[2:]] == ["HBI, trained", "untrained", r"mean\|pooling", "chance"]
    expected = metrics_of(0.5)
    columns = table[0][1:]
    assert table[2][1:] == [f"{expected['t2v'][column]:.1f}" for column in columns]
    assert table[-1][1:] == ["0.5", "2.5", "5.0", "25.0", "100.5", "100.5"]
    reverse = found["Random test videos / Video to text"]
    assert reverse[2][1:] == [f"{expected['v2t'][column]:.1f}" for column in columns]
    assert reverse[2] != table[2]
    both = found["Random test videos / Both directions"]
    assert both[0] == ["method", "Rsum"]
    assert both[2] == ["HBI, trained", f"{expected['Rsum']:.1f}"]
    assert both[-1] == ["chance", "16.0"]
    twins = found["Near-twins / Both directions"]
    assert twins[0] == ["method", "Rsum", "in-group accuracy, %"]
    assert [row[2] for row in twins[2:]] == ["61.2", "-", "25.0"]
    assert "Groups of four share their entities. 100 texts, 100 videos." in text
    for name, rows in found.items():
        assert len({len(row) for row in rows}) == 1, name
        if " / " in name:
            assert all(re.fullmatch(f"{NUMBER}|-", cell) for row in rows[2:] for cell in row[1:])


def test_markdown_tells_of_training_data_and_unreadable_videos():
    found = tables(markdown(example()))
    assert found["Training"][2:] == [
        ["parameters", "1,234,567"],
        ["steps", "600"],
        ["compilation of the step, s", "17.0"],
        ["wall time after it, s", "241.3"],
        ["of which waiting for data, s", "2.0"],
        ["steps a second, without validation", "3.1"],
    ]
    assert found["Data"][2:] == [
        ["train videos", "1,200"],
        ["test videos", "202"],
        ["unreadable videos, skipped", "2"],
    ]
    assert found["Unreadable videos"][2:] == [
        ["video0003", r"truncated: 5 of 12 \| frames"],
        ["video7012", "no video stream"],
    ]
    resumed = dataclasses.replace(example().training, timed_steps=50)
    training = tables(markdown(example(training=resumed)))["Training"]
    assert ["wall time of the last 50 steps after it, s", "241.3"] in training
    bare = tables(markdown(example(training=None, unreadable={})))
    assert "Training" not in bare
    assert "Unreadable videos" not in bare
    assert bare["Data"][-1] == ["unreadable videos, skipped", "0"]


def test_numbers_keep_the_digits_before_the_point():
    values = {0.0419: "0.0419", 35.48: "35.5", 999.4: "999", 999.7: "1,000", 1234.5: "1,234", 12345: "12,345"}
    columns = [Column(f"c{number}") for number in range(len(values))]
    table = Table("Own numbers", "", columns, [TableRow("a method", list(values))])
    assert tables(markdown(example(tables=[table])))["Own numbers"][-1] == ["a method", *values.values()]


def test_headline_names_result_and_chance():
    trained = metrics_of(0.5)["t2v"]
    first, second = headline(example()).split("\n\n")
    assert first == (
        f"**random test videos** (200 texts, 200 videos): HBI, trained ranks the right video first for "
        f"**{trained['R@1']:.1f} %** of the texts (chance 0.5 %) and among the first ten for "
        f"**{trained['R@10']:.1f} %** (chance 5.0 %)."
    )
    assert "near-twins it is right for **61.2 %** (chance 25.0 %)." in second


def test_reproduction_and_protocol():
    text = markdown(example())
    command = "python -m hbi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart"
    assert f"## How to reproduce\n\n```sh\n{command}\n```" in text
    assert "8 x TPU v4, hbi_jax 0.1.0, Python 3.11.7, jax 0.10.2, flax 0.12.8" in text
    assert "- Ties count against the method.\n- Rsum adds" in text
    config = re.search(r"```json\n(.*?)\n```", text, re.DOTALL).group(1)
    assert json.loads(config)["train"] == {"steps": 600, "rate": 1e-4}


def test_pictures_are_embedded_by_relative_path(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("training.png", "a (1).png"):
        (folder / name).write_bytes(b"png")
    pictures = [Picture(str(folder / "training.png"), "Losses"), Picture("pictures/a (1).png", "Word [red]")]
    write_report(tmp_path, example(pictures=pictures))
    text = (tmp_path / "report.md").read_text()
    assert "![Losses](pictures/training.png)\n\n*Losses*" in text
    assert "![Word (red)](pictures/a%20%281%29.png)\n\n*Word [red]*" in text
    paths = [picture["path"] for picture in json.loads((tmp_path / "report.json").read_text())["pictures"]]
    assert paths == ["pictures/training.png", "pictures/a (1).png"]
    with pytest.raises(ValueError, match=r"names none\.png, which is no file"):
        write_report(tmp_path, example(pictures=[Picture("none.png", "")]))


def test_summary_is_a_table_of_aligned_columns():
    text = summary(example())
    first, second, last = text.rstrip("\n").split("\n\n")
    lines = first.splitlines()
    assert lines[0] == "random test videos: 200 texts, 200 videos"
    assert lines[1].split() == ["Text", "to", "video", "Video", "to", "text"]
    assert lines[2].split() == ["R@1", "R@5", "R@10", "MdR"] * 2 + ["Rsum"]
    assert len({len(line) for line in lines[2:]}) == 1
    trained = metrics_of(0.5)
    values = [f"{trained[key][name]:.1f}" for key in ("t2v", "v2t") for name in ("R@1", "R@5", "R@10", "MdR")]
    assert lines[3].split() == ["HBI,", "trained", *values, f"{trained['Rsum']:.1f}"]
    assert lines[-1].split() == ["chance", *["0.5", "2.5", "5.0", "100.5"] * 2, "16.0"]
    twins = second.splitlines()
    assert twins[2].endswith("in group")
    assert [line.split()[-1] for line in twins[3:]] == ["61.2", "-", "25.0"]
    assert last == "Unreadable videos, skipped: 2 (report.md names them)."
    assert max(map(len, text.splitlines())) <= 100


def test_print_summary_goes_to_the_stream(capsys):
    stream = io.StringIO()
    print_summary(example(), stream)
    print_summary(example())
    assert stream.getvalue() == capsys.readouterr().out == summary(example())


def test_a_fault_replaces_nothing(tmp_path, monkeypatch):
    write_report(tmp_path / "new", example())
    before = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    with pytest.raises(ValueError, match=r"config\.model\.dtype is a type, wanted"):
        write_report(tmp_path / "new", example(config={"model": {"dtype": np.float32}}))
    with pytest.raises(ValueError, match=r"report\.galleries is empty"):
        write_report(tmp_path / "new", example(galleries=()))
    gallery = dataclasses.replace(example().galleries[0], rows=())
    with pytest.raises(ValueError, match="'random test videos' has no rows"):
        write_report(tmp_path / "new", example(galleries=(gallery,)))

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path / "new", example(title="Another"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == before


def test_plain_values_of_the_config():
    config = {"a": np.float32(0.5), "b": pathlib.PurePosixPath("x/y"), "c": [None, True, np.int64(3)]}
    assert json.loads(report_json(example(config=config)))["config"] == {
        "a": 0.5,
        "b": "x/y",
        "c": [None, True, 3],
    }


def test_environment_is_this_machine():
    found = current_environment("9.9")
    assert found.device_count == len(jax.devices())
    assert found.device_kind == jax.devices()[0].device_kind
    assert (found.hbi_jax, found.jax, found.flax) == ("9.9", jax.__version__, flax.__version__)
    assert found.python == ".".join(map(str, sys.version_info[:3]))
