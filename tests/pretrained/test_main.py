"""The command line: what it says, what it writes, and how it fails."""

import contextlib
import errno
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import safetensors.numpy

from hbi_jax.pretrained import export, load, save, to_state_dict
from hbi_jax.pretrained.__main__ import main
from tests.pretrained.foreign import CLIP, ESTIMATOR, HBI, weights, write_state


def test_convert_show_and_export(tmp_path, capsys):
    hbi = weights("hbi", HBI, estimator=weights("estimator", ESTIMATOR))
    source, folder, back = (str(tmp_path / name) for name in ("best.pth", "hbi", "back"))
    write_state(tmp_path / "best.pth", to_state_dict(hbi))
    assert main(["convert", source, folder, "--words", "32"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "HBI (retrieval), from: published HBI checkpoint"
    assert "towers ViT/4: images of 8 px in patches of 4, vision 2 layers of 64, text 2 layers of 64" in out
    assert "levels entity, action (8 words, 3 frames), event (4 words, 2 frames)" in out
    assert "beside it an estimator: network cnn_sa, 4 features, " in out
    assert "kept, used by no model: banzhafmodel.bn.bias, " in out
    assert lines[-1] == f"saved {folder}"
    assert "write model.safetensors" in err
    assert load(folder, progress=False).config["levels"][1] == ["action", 8, 3]

    assert main(["show", folder]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:-1]
    assert main(["export", folder, back]) == 0
    assert capsys.readouterr().out == f"saved {back}\n"
    assert main(["show", back]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == lines[1:-1]


def test_a_size_that_has_a_name(tmp_path, capsys):
    from hbi_jax.pretrained.sizes import describe

    named = {**CLIP, "image_size": 336, "patch_size": 14, "vision_width": 1024, "vision_layers": 24}
    named |= {"text_width": 768, "text_layers": 12, "embed_features": 768}
    assert describe("clip", named)[0].startswith("towers ViT-L/14@336px: images of 336 px in patches of 14")


def test_errors_are_one_line(tmp_path, capsys):
    (tmp_path / "page.pt").write_text("<html>")
    for command in (["convert", str(tmp_path / "page.pt"), str(tmp_path / "out")], ["show", str(tmp_path / "page.pt")]):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert "is a web page" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    # A destination that is taken is told before anything is read.
    assert main(["convert", str(tmp_path / "none.pt"), str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    for words in ("0", "abc"):
        with pytest.raises(SystemExit):
            main(["convert", "a", "b", "--words", words])
        assert f"argument --words: {words} is not a positive number" in capsys.readouterr().err


def _leaves(value, path=()):
    """The place of everything in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _leaves(item, (*path, key))


def _with(value, path, new):
    """A JSON value with another one somewhere in it."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("odd", [["x"], {}, None, -1, 10**30, float("nan"), "\ud800"])
def test_whatever_a_configuration_of_others_holds(tmp_path, odd):
    """Anywhere in config.json, and in the header of an export: described, or refused in one line with the folder."""
    folder, back = tmp_path / "clip", tmp_path / "back"
    save(folder, weights("clip", CLIP))
    save(tmp_path / "net", weights("estimator", ESTIMATOR))
    export(tmp_path / "net", back)
    state = safetensors.numpy.load_file(back / "hbi.safetensors")
    headers = [json.loads((place / "config.json").read_text()) for place in (folder, tmp_path / "net")]
    writers = (
        lambda about: (folder / "config.json").write_text(json.dumps(about)),
        lambda about: safetensors.numpy.save_file(state, back / "hbi.safetensors", {"hbi_jax": json.dumps(about)}),
    )
    for place, header, write in zip((folder, back), headers, writers, strict=True):
        for path in _leaves(header):
            write(_with(header, path, odd))
            out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(["show", str(place)])
            message = err.getvalue()
            assert code in (0, 1), (path, message)
            if code:
                assert re.fullmatch(rf"error: .*{re.escape(str(place))}.+; .+\n", message), (path, message)


def test_weights_with_other_names_are_told_with_their_folder(tmp_path, capsys):
    save(tmp_path / "clip", weights("clip", CLIP))
    file = tmp_path / "clip/model.safetensors"
    state = {name.replace("patch", "stain"): array for name, array in safetensors.numpy.load_file(file).items()}
    safetensors.numpy.save_file(state, file)
    assert main(["show", str(tmp_path / "clip")]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'clip'}: vision_tower/patch_embedding/kernel is missing; the weights are incomplete or "
        "have other names: convert them again\n"
    )


@pytest.mark.parametrize("error", [OSError("it"), RecursionError("it")])
def test_what_nobody_foresaw_is_one_line_too(monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("hbi_jax.pretrained.sources.open_source", fail)
    assert main(["show", "x"]) == 1
    assert capsys.readouterr().err == "error: it\n"


def test_paths_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for command, says in (
        (["show", "x" * 300], "is no path that can be used"),
        (["convert", str(tmp_path / "file"), "x" * 300], "is no path that can be used"),
        (["convert", str(tmp_path / "file"), str(tmp_path / "file" / "x")], "file is no folder"),
        (["show", "~nobody-of-this-name/clip"], "is of nobody here"),
        (["show", str(tmp_path / "file" / "x")], "there is no such file or folder"),
        (["export", str(tmp_path / "file"), str(tmp_path / "out")], "convert it first"),
    ):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert says in err


def test_a_full_disk_behind_the_output(tmp_path):
    full = pathlib.Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    save(tmp_path / "estimator", weights("estimator", ESTIMATOR))
    command = [sys.executable, "-m", "hbi_jax.pretrained", "show", str(tmp_path / "estimator")]
    with full.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: standard output cannot be written ({os.strerror(errno.ENOSPC)})\n"


def test_a_home_may_be_meant(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_state(tmp_path / "net.pt", to_state_dict(weights("estimator", ESTIMATOR)))
    assert main(["convert", "~/net.pt", "~/net"]) == 0
    assert capsys.readouterr().out.endswith(f"\nsaved {tmp_path}/net\n")
    assert main(["show", "~/net"]) == 0
    assert "network cnn_sa, 4 features" in capsys.readouterr().out


def test_help_tells_of_the_sources(capsys):
    for arguments in (["--help"], ["convert", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        for word in ("openai/clip-vit-base-patch32", "OpenAI's CLIP", "published HBI", "Torch is not needed"):
            assert word in out
