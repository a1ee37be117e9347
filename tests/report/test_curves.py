"""Training curves: what is read from a run's file, how it is grouped, what the figure holds."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hbi_jax.report.curves import Series, panels, plot_training, read_metrics, training_figure
from hbi_jax.train.writers import JsonlWriter

ROOT = pathlib.Path(__file__).parents[2]


def write_run(path, steps=40):
    writer = JsonlWriter(path)
    for step in range(1, steps + 1):
        losses = {
            "loss/total": 30.0 * 0.9**step,
            "loss/entity/contrastive": 1.0 + 1 / step,
            "loss/action/contrastive": 2.0 + 1 / step,
            "loss/entity/interaction": 0.5,
            "loss/action/distillation": 1e-3,
        }
        writer.write_scalars(step, {**losses, "learning_rate": 1e-4 * step / steps, "logit_scale": 100.0})
        if step % 10 == 0:
            writer.write_scalars(step, {f"val/t2v/R@{k}": float(step + k) for k in (1, 5)} | {"val/Rsum": 9.0})
    writer.close()


def lines_of(axes):
    return {line.get_label(): np.stack(line.get_data()) for line in axes.get_lines()}


def series(*values):
    return Series(np.arange(len(values)), np.array(values, float))


def test_figure_holds_the_values_of_the_run(tmp_path):
    write_run(tmp_path / "metrics.jsonl")
    figure = training_figure(read_metrics(tmp_path / "metrics.jsonl"))
    axes = {axes.get_title("left"): axes for axes in figure.axes}
    assert list(axes) == [
        "total loss",
        "contrastive loss",
        "interaction loss",
        "distillation loss",
        "learning rate",
        "validation, text to video",
    ]
    steps = np.arange(1, 41)
    np.testing.assert_allclose(lines_of(axes["total loss"])["total"], [steps, 30.0 * 0.9**steps])
    contrastive = lines_of(axes["contrastive loss"])
    assert list(contrastive) == ["entity", "action"]
    np.testing.assert_allclose(contrastive["action"], [steps, 2 + 1 / steps])
    np.testing.assert_allclose(lines_of(axes["learning rate"])["all parameters"][1], 1e-4 * steps / 40)
    recall = lines_of(axes["validation, text to video"])
    np.testing.assert_array_equal(recall["R@5"], [[10, 20, 30, 40], [15, 25, 35, 45]])
    legend = [text.get_text() for text in axes["validation, text to video"].get_legend().get_texts()]
    assert legend == ["R@1", "R@5"]


def test_gates_have_a_panel_a_side_and_a_line_a_level():
    names = [f"gate/{level}/{side}" for level in ("entity", "action") for side in ("text", "video")]
    video, text = panels({name: series(number, 1.4) for number, name in enumerate(names)})
    assert (video.title, text.title) == ("video gate gamma", "text gate delta")
    assert {level: line.values[0] for level, line in video.lines.items()} == {"entity": 1, "action": 3}
    assert {level: line.values[0] for level, line in text.lines.items()} == {"entity": 0, "action": 2}
    # Their axis is around 1, not around percent.
    (axes,) = training_figure({"gate/entity/video": series(1.0, 1.4)}).axes
    assert axes.get_ylim()[0] > 0.9
    assert axes.get_ylim()[1] < 1.5


def test_scores_of_captions_share_a_panel():
    names = ("CIDEr", "ROUGE-L", "BLEU-4")
    (panel,) = panels({f"val/{name}": series(90.0, 120.0) for name in names})
    assert (panel.title, tuple(panel.lines)) == ("validation, captions", names)
    (axes,) = training_figure({"val/CIDEr": series(90.0, 150.0)}).axes
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 150


def test_axes_are_labelled_and_fit_the_values(tmp_path):
    write_run(tmp_path / "metrics.jsonl")
    figure = training_figure(read_metrics(tmp_path / "metrics.jsonl"))
    total, contrastive, _, _, rate, recall = figure.axes
    assert (total.get_yscale(), contrastive.get_yscale()) == ("log", "linear")
    assert (total.get_ylabel(), rate.get_ylabel(), recall.get_ylabel()) == (
        "loss",
        "learning rate",
        "recall, percent",
    )
    assert recall.get_xlabel() == "step"
    assert recall.get_ylim() == (0, 102)
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 40 * 1.02)}
    figure.draw_without_rendering()
    assert "1e-4" in [label.get_text() for label in rate.get_yticklabels()]


def test_a_loss_that_reaches_zero_stays_linear():
    figure = training_figure({"loss/total": series(100.0, 1.0, 0.0)})
    assert figure.axes[0].get_yscale() == "linear"


def test_resumed_and_interrupted_rows(tmp_path):
    rows = [
        '{"step": 2, "time": 1, "loss/total": 5.0}',
        '{"step": 1, "time": 1, "loss/total": 9.0, "val/t2v/R@1": 1.0}',
        '{"step": 3, "time": 1, "loss/total": null}',
        '{"step": 4, "time": 1, "loss/total": 3.',
        "",
        "[1, 2]",
        '{"step": "x", "loss/total": 1.0}',
        '{"step": 2, "time": 2, "loss/total": 4.0}',
        '{"step": 5, "time": 2, "loss/total": NaN}',
        '{"step": 6, "time": 2, "loss/total": 2}',
        '{"step": 7, "ti',
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(rows))
    found = read_metrics(path)
    assert list(found) == ["loss/total", "val/t2v/R@1"]
    np.testing.assert_array_equal(found["loss/total"].steps, [1, 2, 6])
    np.testing.assert_array_equal(found["loss/total"].values, [9.0, 4.0, 2.0])


def test_panels_of_several_galleries_groups_and_tasks():
    names = [
        *("loss/total", "loss/caption", "learning_rate/clip", "learning_rate/new"),
        *(
            "val/twins/v2t/R@10",
            "val/twins/group_accuracy",
            "val/t2v/MdR",
            "val/R@1",
            "val",
            "steps_per_second",
        ),
    ]
    found = {panel.title: list(panel.lines) for panel in panels({name: series(1.0) for name in names})}
    assert found == {
        "total loss": ["total", "caption"],
        "learning rate": ["clip", "new"],
        "validation, twins, video to text": ["R@10"],
        "validation accuracy": ["twins, group accuracy"],
    }


def test_long_runs_are_smoothed_but_keep_their_raw_values():
    values = np.random.default_rng(0).normal(5, 1, 200)
    figure = training_figure({"loss/total": Series(np.arange(200), values)})
    raw, smooth = (line.get_ydata() for line in figure.axes[0].get_lines())
    np.testing.assert_array_equal(raw, values)
    assert smooth[100] == pytest.approx(values[95:106].mean())
    assert smooth[0] == pytest.approx(values[:6].mean())
    assert smooth[-1] == pytest.approx(values[-6:].mean())


@pytest.mark.parametrize("rows", [1, 2])
def test_a_run_of_few_rows_is_drawn(tmp_path, rows):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss/total": 0.0}) + "\n" for step in range(rows)))
    plot_training(path, tmp_path / "few.png")
    assert Image.open(tmp_path / "few.png").width > 300


def test_the_saved_picture_is_big_enough(tmp_path):
    write_run(tmp_path / "metrics.jsonl")
    out = tmp_path / "pictures" / "training.png"
    plot_training(tmp_path / "metrics.jsonl", out)
    picture = Image.open(out)
    assert picture.width >= 1200
    assert picture.height >= 600
    assert np.asarray(picture.convert("L")).std() > 5


def test_no_pyplot_state_is_touched():
    # A notebook's own figures and backend stay as they are, and a machine needs no display.
    code = (
        "import sys, numpy, hbi_jax.tasks.retrieval.plot, hbi_jax.report.curves as curves;"
        "series = {'loss/total': curves.Series(numpy.arange(2), numpy.ones(2))};"
        "curves.training_figure(series).savefig('/dev/null', format='png');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_nothing_to_draw_is_said(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    with pytest.raises(ValueError, match="metrics hold no row, wanted names like"):
        plot_training(path, tmp_path / "x.png")
    path.write_text('{"step": 1, "speed": 2.0}\n')
    with pytest.raises(ValueError, match=r"metrics hold \['speed'\]"):
        plot_training(path, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
    with pytest.raises(FileNotFoundError):
        plot_training(tmp_path / "none.jsonl", tmp_path / "x.png")
