"""Plans of tiny runs on simulated devices: no data is there, and the programs are those of the trainer."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from etils import epath

from hbi_jax import experiment
from hbi_jax.config import Config
from hbi_jax.fields import ConfigError
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.plan import suggest as suggestions
from hbi_jax.plan.account import Account, Bounds, CompileError, Memory
from hbi_jax.plan.plan import TRAIN_STEP, make_plan, programs
from hbi_jax.plan.show import to_json, to_text
from hbi_jax.plan.splits import training_rows
from hbi_jax.plan.topology import Topology, open_topology
from hbi_jax.tasks.registry import TASKS
from hbi_jax.tasks.training import make_state, make_step
from tests.plan.test_account import CHIP
from tests.tiny_answers import tiny_answers
from tests.tiny_captions import tiny_captions
from tests.tiny_run import SMALLEST, tiny_config

NOWHERE = pathlib.Path("there", "is", "no", "data")
SMALL = {name.replace(".", "__"): value for name, value in SMALLEST.items()}


def smallest(folder=NOWHERE, **changes) -> Config:
    return tiny_config(folder, **(SMALL | changes))


@pytest.fixture(scope="module")
def topology():
    """Two devices that are taken for chips with round numbers, one host each."""
    return Topology("cpu:2", CHIP._replace(usable=1e9, per_host=1), jax.devices()[:2])


@pytest.fixture(scope="module")
def plan(topology):
    return make_plan(smallest(train__num_steps=0, train__num_epochs=3), topology, num_examples=80)


def test_a_plan_accounts_for_every_program(plan):
    assert [found.name for found in plan.accounts] == [TRAIN_STEP, "encode_text", "encode_video", "gallery_similarity"]
    assert (plan.chips, plan.hosts, plan.mesh, plan.batch_size) == (2, 2, {"data": 2, "model": 1}, 8)
    assert plan.fits
    assert plan.assumptions == ("an epoch has 80 rows",)
    step = plan.accounts[0]
    assert {found.kind for found in step.communication} >= {"all-gather", "all-reduce"}
    assert all(found.flops > 0 for found in plan.accounts)


def local_bytes(tree):
    """Bytes of a tree on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def test_the_step_is_called_with_the_state_and_a_share_of_the_batch(plan, topology):
    state, batch = programs(smallest(), topology, "train")[0][TRAIN_STEP].arguments
    share = sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch)) / 2
    # Indices that the loss does not use are not passed.
    assert local_bytes(state) < plan.accounts[0].memory.arguments <= local_bytes(state) + share


def test_the_length_of_the_run_follows_from_the_bounds(plan):
    found, bounds = plan.training, plan.accounts[0].bounds
    assert found.steps == 3 * 80 // 8
    assert found.step_ms == (bounds.in_turn, bounds.overlapped)
    np.testing.assert_allclose(found.examples_per_second, [8e3 / ms for ms in found.step_ms])
    np.testing.assert_allclose(found.clips_per_host, [4e3 / ms for ms in found.step_ms])
    np.testing.assert_allclose(found.days, [30 * ms / 86_400_000 for ms in found.step_ms])


def test_text_and_json(plan):
    text = to_text(plan)
    assert text.startswith("HBI on cpu:2: 2 chips (2 data x 1 model), 2 hosts; training batch of 8 rows, 4 a chip\n")
    for part in (
        "train_step: fits, ",
        "all-reduce",
        "MFU at most",
        "30 steps: ",
        "traffic of",
        "Assumed: an epoch has 80 rows.",
    ):
        assert part in text
    found = json.loads(to_json(plan))
    assert found["fits"] is True
    assert [row["name"] for row in found["accounts"]] == [row.name for row in plan.accounts]
    assert found["accounts"][0]["bounds"]["binds"] == plan.accounts[0].bounds.binds
    assert found["accounts"][0]["memory"]["peak"] == plan.accounts[0].memory.peak
    assert found["training"]["steps"] == 30
    names = {part["name"] for part in found["accounts"][0]["parts"]}
    assert {"forward vision_tower/transformer", "backward vision_tower/transformer", "the rest"} <= names


def test_the_planned_step_is_the_trained_one(world, tmp_path):
    """To the letter, up to where the program is traced from."""
    config = smallest(world)
    setup = experiment.prepare(config, str(tmp_path))
    tx, state = make_state(setup.task, config.train.num_steps)
    trained = make_step(setup.task, tx, state).lower(state, setup.task.abstract_batch()).as_text()
    planned, _, _ = programs(config, open_topology("cpu:2"), "train", config.train.num_steps)
    step = planned[TRAIN_STEP]
    assert step.function.lower(*step.arguments).as_text() == trained


@pytest.mark.parametrize(
    ("config", "names", "assumed"),
    [
        (smallest(), ["encode_text", "encode_video", "gallery_similarity"], []),
        (
            tiny_answers(NOWHERE, model__levels=(("entity", 0, 0),), eval__level_rates=(1.0,)),
            ["encode_video", "answer_questions"],
            ["the vocabulary has 12 answers"],
        ),
        (tiny_captions(NOWHERE), ["encode_video", "caption"], ["captions may contain every token of CLIP"]),
        (
            smallest(task="estimator", eval__best_metric="correlation", optimizer__frozen=("^params/hbi/",)),
            ["encode_text", "encode_video"],
            [],
        ),
    ],
)
def test_every_task_has_its_programs_without_data(config, names, assumed):
    found, sentences, _ = programs(config, open_topology("cpu:2"))
    assert list(found) == [TRAIN_STEP, *names]
    assert len(sentences) == len(assumed)
    assert all(part in sentence for part, sentence in zip(assumed, sentences, strict=True))
    rows = {name: jax.eval_shape(found[name].function, *found[name].arguments) for name in names}
    assert all(leaf.shape[0] == config.eval.batch_size for leaf in jax.tree.leaves(rows))


@pytest.mark.parametrize(("dataset", "count"), [("msrvtt_qa", 1500), ("activitynet_qa", 1654)])
def test_a_vocabulary_has_as_many_answers_as_published(dataset, count):
    config = tiny_answers(NOWHERE, data__dataset=dataset, answers__top_answers=0)
    task, assumed = TASKS["answers"].without_data(config, make_mesh(2, 1, jax.devices()[:2]), epath.Path("nowhere"))
    assert len(task.vocabulary) == count
    assert assumed == [f"the vocabulary has {count:,} answers"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__batch_size": 6}, "--topology=cpu:4: config.train.batch_size=6: wanted a multiple of the 4 devices"),
        ({"mesh__model": 3}, "--topology=cpu:4: config.mesh.data=-1 x config.mesh.model=3 is not the 4 devices"),
    ],
)
def test_what_does_not_divide_is_told(changes, message):
    with pytest.raises(ConfigError, match=message):
        programs(smallest(**changes), open_topology("cpu:4"))


def test_slices_are_groups_of_the_devices():
    found, sentences, mesh = programs(smallest(mesh__slices=2), open_topology("cpu:4"), "train")
    assert mesh == {"data": 4, "model": 1}
    assert list(found) == [TRAIN_STEP]
    assert "the network between slices" in sentences[0]


def test_an_evaluation_needs_no_batch_that_divides():
    found, _, _ = programs(smallest(train__batch_size=6), open_topology("cpu:4"), "evaluate")
    assert TRAIN_STEP not in found


def test_rows_of_published_data_sets():
    data = smallest().data
    published = dataclasses.replace(data, dataset="msrvtt", render="", val_list="", num_val_videos=0)
    assert training_rows(published) == 180_000
    assert training_rows(dataclasses.replace(published, num_val_videos=500)) == 170_000
    assert training_rows(dataclasses.replace(published, captions_per_video="one")) == 9_000
    assert training_rows(dataclasses.replace(published, dataset="activitynet")) == 10_009
    # What only the data can tell.
    assert training_rows(data) is None
    assert training_rows(dataclasses.replace(published, train_list="own.csv")) is None
    assert training_rows(dataclasses.replace(published, dataset="folder")) is None


def test_an_epoch_of_unknown_length_is_told(plan, topology, monkeypatch):
    monkeypatch.setattr("hbi_jax.plan.plan.programs", lambda *_: ({TRAIN_STEP: None}, [], {"data": 2, "model": 1}))
    monkeypatch.setattr("hbi_jax.plan.plan.account", lambda *_: plan.accounts[0])
    found = make_plan(smallest(train__num_steps=0), topology, "train")
    assert (found.training.steps, found.training.days, found.assumptions) == (None, None, ())
    assert found.training.step_ms == plan.training.step_ms
    assert "how long the run takes depends on its data: give --num_examples" in to_text(found)


class Sizes:
    """Accounts of a program that needs a memory of its configuration alone."""

    def __init__(self, needed, monkeypatch):
        self.needed, self.tried = needed, []
        monkeypatch.setattr(suggestions, "programs", self.programs)
        monkeypatch.setattr(suggestions, "account", self.account)

    def programs(self, config, topology, mode):
        return dict.fromkeys((TRAIN_STEP, "encode_text", "gallery_similarity"), config), [], {}

    def account(self, name, config, chip):
        peak = self.needed(config)
        self.tried.append(config)
        return Account(name, peak <= chip.usable, None, 1.0, memory=Memory(0, 0, 0, peak), bounds=Bounds(1.0, 1.0, 1.0))


def refused(plan, name):
    return dataclasses.replace(plan, accounts=(Account(name, False, 3e9, 60.0),), training=None)


def test_changes_are_tried_until_one_of_each_field_fits(plan, topology, monkeypatch):
    def needed(config):
        model = config.model
        remat = {"none": 4, "elementwise": 2, "blocks": 1}[model.remat]
        spread = 4 if config.mesh.fsdp else 1
        return 10**9 * remat * config.train.batch_size // (32 * model.frame_portions * spread)

    sizes, config = Sizes(needed, monkeypatch), smallest(train__batch_size=32, data__num_frames=8, model__remat="none")
    changes = list(suggestions.suggest(config, topology, refused(plan, TRAIN_STEP)))
    assert [(change.fields, change.account.fits) for change in changes] == [
        ("--config.model.remat=elementwise", False),
        ("--config.model.remat=blocks", True),
        ("--config.model.frame_portions=2", False),
        ("--config.model.frame_portions=4", True),
        ("--config.train.batch_size=16", False),
        ("--config.train.batch_size=8", True),
        ("--config.mesh.fsdp=True", True),
    ]
    assert len(sizes.tried) == len(changes)
    text = to_text(refused(plan, TRAIN_STEP), changes)
    assert "train_step: DOES NOT FIT: it needs at least 2.79 GiB of 953.67 MiB a chip" in text
    assert "--config.model.remat=blocks" in text
    assert "--suggest" in to_text(refused(plan, TRAIN_STEP))
    assert json.loads(to_json(refused(plan, TRAIN_STEP), changes))["changes"][1]["account"]["fits"] is True


def test_an_evaluation_that_does_not_fit_gets_smaller_blocks(plan, topology, monkeypatch):
    Sizes(lambda config: 10**9 * config.eval.video_block // 4, monkeypatch)
    changes = list(suggestions.suggest(smallest(), topology, refused(plan, "gallery_similarity")))
    fitting = [change.fields for change in changes if change.account.fits]
    assert fitting == ["--config.eval.video_block=4"]
    assert {change.fields.partition("=")[0] for change in changes} == {
        "--config.eval.batch_size",
        "--config.eval.video_block",
    }


def test_nothing_is_tried_where_all_fits(plan, topology):
    assert list(suggestions.suggest(smallest(), topology, plan)) == []


def test_a_change_that_the_compiler_refuses_ends_nothing(plan, topology, monkeypatch):
    def needed(config):
        if config.model.remat == "elementwise":
            raise CompileError("train_step: the compiler ran out of vmem")
        return 10**9 * (4 if config.model.remat == "none" else 1)

    Sizes(needed, monkeypatch)
    refusing = refused(plan, TRAIN_STEP)
    changes = list(suggestions.suggest(smallest(model__remat="none"), topology, refusing))
    assert [(change.fields, change.fits) for change in changes[:2]] == [
        ("--config.model.remat=elementwise", False),
        ("--config.model.remat=blocks", True),
    ]
    assert "refused: train_step: the compiler ran out of vmem" in to_text(refusing, changes)
    assert json.loads(to_json(refusing, changes))["changes"][0]["account"] is None


def test_sizes_are_halved_down_to_the_least():
    assert suggestions._halves(8, 1) == [4, 2, 1]
    assert suggestions._halves(8, 1, least=2) == [4, 2]
    assert suggestions._halves(2, 1) == [1]
    assert suggestions._halves(12, 2) == [6]
