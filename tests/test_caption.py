"""Captions of video files: the function and its command; what cannot be read, opened or asked for is named."""

import json
import re

import numpy as np
import pytest

import hbi_jax
from hbi_jax import caption
from hbi_jax.commands import apply
from hbi_jax.config import default_config
from hbi_jax.tasks.captions.inference import generate_captions
from hbi_jax.tasks.inference import open_run
from hbi_jax.train.checkpoint import CheckpointError


@pytest.fixture(autouse=True)
def _logging(monkeypatch):
    """Leaves the tests' own logging alone."""
    monkeypatch.setattr(apply, "start_logging", lambda verbose: None)


@pytest.fixture(scope="module")
def opened(captioned):
    return open_run(captioned, "captions")


@pytest.fixture(scope="module")
def evaluated(world, captioned):
    """Of the run's own evaluation: video file -> caption."""
    results = json.loads((captioned / "captions-test.json").read_text())
    return {str(world / "videos" / f"{result['image_id']}.mp4"): result["caption"] for result in results}


def test_captions_are_those_of_the_evaluation(opened, evaluated, tmp_path):
    """In the order of the files, which may repeat; a broken one has none and a reason."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    videos = [*evaluated][:3]
    videos.append(videos[0])
    found = generate_captions(opened, [broken, *videos])
    assert [result.video for result in found] == [str(broken), *videos]
    assert found[0].captions == found[0].log_probabilities == ()
    assert found[0].error.startswith(f"{broken}: ")
    for result in found[1:]:
        assert result.captions == (evaluated[result.video],)
        assert result.error is None
        assert -200 < result.log_probabilities[0] < 0


def test_several_captions_of_a_video(opened, evaluated):
    """More than the run's two beams, from the package itself; and the one that is greedy."""
    video = next(iter(evaluated))
    (beams,) = hbi_jax.generate_captions(opened, video, top=3)
    assert len(set(beams.captions)) == len(beams.log_probabilities) == 3
    (greedy,) = hbi_jax.generate_captions(opened, video, "greedy")
    assert len(greedy.captions) == 1
    assert np.isfinite(greedy.log_probabilities).all()


@pytest.mark.slow
def test_samples_follow_from_the_seed(opened, evaluated):
    video = next(iter(evaluated))
    samples = [generate_captions(opened, video, "sample", 3, seed)[0] for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert len(samples[0].captions) == 3
    # More videos make larger batches; samples of the first stay what they are.
    first, *others = generate_captions(opened, [*evaluated][:5], "sample", 3)
    assert first == samples[0]
    assert len({result.captions for result in (first, *others)}) == 5


@pytest.mark.parametrize(
    ("videos", "options", "message"),
    [
        ([], {}, "videos: got none, wanted at least one"),
        ("a.mp4", {"top": 0}, "top=0: wanted 1 caption or more"),
        ("a.mp4", {"seed": 2**63}, "seed=9223372036854775808: wanted a whole number in 0..4294967295"),
        ("a.mp4", {"seed": -1}, "seed=-1: wanted a whole number in 0..4294967295"),
        ("a.mp4", {"top": 2, "method": "greedy"}, "top=2: wanted 1 if the method is 'greedy'; use 'beam' or"),
        ("a.mp4", {"method": "guess"}, "method='guess': wanted one of 'greedy', 'beam', 'sample'"),
    ],
)
def test_what_cannot_be_asked_for_is_named(opened, videos, options, message):
    with pytest.raises(ValueError, match=message):
        generate_captions(opened, videos, **options)


def test_checkpoints_of_another_task_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(default_config().to_json())
    with pytest.raises(CheckpointError, match=r"checkpoint of config.task='retrieval': wanted 'captions'; give"):
        generate_captions(tmp_path, "a.mp4")


def test_the_command_prints_and_writes_whatever_cannot_be_read(captioned, evaluated, tmp_path, capsys):
    file, absent = tmp_path / "captions.jsonl", str(tmp_path / "absent.mp4")
    (video, text), *_ = evaluated.items()
    assert caption.main([f"--checkpoint={captioned}", video, absent, "--top=2", f"--jsonl={file}"]) == 1
    said = capsys.readouterr()
    good, bad = [json.loads(line) for line in file.read_text().splitlines()]
    assert (good["video"], good["captions"][0], good["error"]) == (video, text, None)
    assert said.out.splitlines() == [f"{video}: {text}", f"{' ' * len(video)}  {good['captions'][1]}"]
    assert (bad["video"], bad["captions"], bad["log_probabilities"]) == (absent, [], [])
    assert said.err.splitlines()[-1] == f"error: {bad['error']}"
    assert "absent.mp4" in bad["error"]


@pytest.mark.parametrize("seed", ["9223372036854775808", "4294967296", "-1", "²", "a"])
def test_a_seed_that_is_none_is_refused_first(tmp_path, capsys, seed):
    assert caption.main([f"--checkpoint={tmp_path}", "a.mp4", "--method=sample", f"--seed={seed}"]) == 1
    wanted = f"error: --seed={seed}: wanted a whole number in 0..4294967295; choose such a one\n"
    assert capsys.readouterr() == ("", wanted)


def test_what_cannot_work_is_one_line(tmp_path, capsys):
    assert caption.main([f"--checkpoint={tmp_path}", "a.mp4"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match("error: .* is not the work folder of a run", said.err)
