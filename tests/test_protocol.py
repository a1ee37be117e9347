"""What a checkpoint is selected by: never by the videos it is measured on, unless the configuration says so."""

import csv
import json
import pathlib

import pytest

from hbi_jax import experiment
from hbi_jax.data import shapes
from hbi_jax.data.dataset import Dataset
from hbi_jax.data.datasets import DataError, Record, Split
from hbi_jax.fields import ConfigError
from tests.tiny_run import run, tiny_config


def dataset_of(config):
    return Dataset(config.data, config.model.clip.image_size)


PUBLISHED = {"data__protocol": "published", "data__val_list": ""}


def test_validation_that_a_gallery_shares_is_refused_before_anything_is_trained(world, tmp_path):
    """By one video of one gallery, whichever."""
    shapes.generate(world, dataset_of(tiny_config(world)).world, show_progress=False)
    (victim, *_) = list(csv.DictReader((world / "MSRVTT_JSFUSION_twins.csv").open()))
    own = [row["video_id"] for row in csv.DictReader((world / "MSRVTT_val.csv").open())]
    lists = tmp_path / "lists.csv"
    lists.write_text("\n".join(["video_id", *own, victim["video_id"]]))
    setup = experiment.prepare(tiny_config(world, data__val_list=str(lists)), str(tmp_path / "run"))
    message = (
        rf"the validation split: got 1 videos that are also in gallery 'twins', such as '{victim['video_id']}', "
        "wanted none if .*; choose another config.data.val_list; .* set config.data.protocol=published"
    )
    with pytest.raises(DataError, match=message):
        experiment.train(setup)
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_published_protocol_validates_on_the_first_gallery(world, tmp_path):
    config = tiny_config(world, **PUBLISHED)
    setup = experiment.prepare(config, str(tmp_path))
    assert config.data.has_validation
    validation = setup.task.source("val")
    assert validation.split == dataset_of(config).split("test")
    selection = experiment._selection(setup, validation)
    assert "is the best one on gallery 'test' itself, as in the published code" in selection
    # What it trains on is the whole list.
    whole = dataset_of(config).split("train")
    assert whole.num_videos == config.data.world["num_train"]


def test_two_kinds_of_validation_exclude_each_other(world, tmp_path):
    for fields in ({"data__protocol": "published"}, {**PUBLISHED, "data__num_val_videos": 4}):
        with pytest.raises(ConfigError, match=r"config.data.protocol='published': wanted 'held_out' where config.data"):
            experiment.prepare(tiny_config(world, **fields), str(tmp_path))


def test_a_report_says_that_validation_was_held_out(finished):
    protocol = json.loads((finished / "report.json").read_text())["protocol"]
    assert "The checkpoint is the best one on the validation split, which shares no video with any gallery." in protocol
    assert not any("tokens and lose their end" in sentence for sentence in protocol)


def test_clips_of_one_file_are_of_one_video():
    """Their ids differ, but a gallery whose other clips select the checkpoint is not held out."""
    one, other, third = (
        Record("a cat", f"a.mp4 {start}-{start + 5} s", pathlib.Path(f"{name}.mp4"), start, start + 5)
        for name, start in (("a", 0), ("a", 5), ("b", 10))
    )
    gallery = Split("test", (one,))
    experiment._check_held_out(Split("val", (third,)), gallery)
    with pytest.raises(DataError, match=r"got 1 videos that are also in gallery 'test', such as 'a.mp4 0-5 s'"):
        experiment._check_held_out(Split("val", (other, third)), gallery)


@pytest.mark.slow
def test_a_report_says_what_was_selected_on_and_what_was_cut(world, tmp_path):
    levels = (("entity", 0, 0),)
    config = tiny_config(
        world, **PUBLISHED, data__num_words=10, model__levels=levels, eval__level_rates=(1.0,), train__num_steps=2,
        train__eval_every=1, eval__baselines=False, eval__num_pictures=0, loss__interaction_weight=0.0,
    )  # fmt: skip
    run(config, tmp_path)
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    (selection,) = [sentence for sentence in protocol if "checkpoint is" in sentence]
    assert selection.startswith("The checkpoint is the best one on gallery 'test' itself, as in the published code")
    cut = [
        sentence for sentence in protocol if "exceed config.data.num_words=10 tokens and lose their end." in sentence
    ]
    assert [sentence.split("'")[1] for sentence in cut] == ["train", "test", "twins"]
    test = dataset_of(config).split("test")
    count = dataset_of(config).tokenizer.truncated([record.text for record in test.records])
    assert cut[1].startswith(f"{count} of 8 texts of 'test' ({100 * count / 8:.1f} %)")
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "val/t2v/R@1" in row] == [1, 2]
