"""Configurations: what cannot work is named before any device work, and every file of configs/ builds."""

import functools
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath

from hbi_jax import main
from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.config import Config, default_config, parse
from hbi_jax.data.dataset import Dataset
from hbi_jax.data.datasets import LOADERS
from hbi_jax.fields import ConfigError
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.pretrained import Pretrained, save
from hbi_jax.tasks.config import read_config, to_json
from hbi_jax.tasks.registry import make_task
from hbi_jax.tasks.task import abstract_batch, init_model
from hbi_jax.tasks.teacher import make_teacher
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.train.state import abstract_state, state_shardings
from hbi_jax.train.step import make_train_step
from tests.tiny_hbi import random_params

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


def changed(**fields):
    """The defaults with some fields, named with __ for a dot, set to other values."""
    config = default_config()
    for name, value in fields.items():
        *sections, field = name.split("__")
        section = functools.reduce(lambda part, key: part[key], sections, config)
        section[field] = value
    return config


def dataset_of(config, workdir=""):
    parsed = parse(config)
    return Dataset(parsed.data, parsed.model.clip.image_size, workdir)


def test_the_defaults_are_valid():
    parse(default_config())
    parse(default_config().lock())


LEVELS = (("entity", 0, 0), ("action", 16, 6), ("event", 4, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # One field alone.
        ({"model__clip__patch_size": 0}, "config.model.clip.patch_size=0: wanted 1 or more; raise it"),
        ({"model__frame_layers": -1}, "config.model.frame_layers=-1: wanted 0 or more"),
        (
            {"model__frame_layers": 0, "model__frame_positions": "relative"},
            "config.model.frame_layers=0: wanted 1 or more if positions are relative; distances are between frames",
        ),
        (
            {"model__frame_layers": 0, "loss__motion_weight": 1.0},
            "config.model.frame_layers=0: wanted 1 or more if config.loss.motion_weight is above 0: frames see",
        ),
        ({"train__batch_size": 1}, "config.train.batch_size=1: wanted 2 or more"),
        ({"train__log_every": 0}, "config.train.log_every=0: wanted 1 or more"),
        ({"train__checkpoint_every": 0}, "config.train.checkpoint_every=0: wanted 1 or more"),
        ({"data__num_threads": 0}, "config.data.num_threads=0: wanted 1 or more"),
        ({"eval__video_block": 0}, "config.eval.video_block=0: wanted 1 or more"),
        ({"mesh__model": 0}, "config.mesh.model=0: wanted 1 or more"),
        ({"eval__querybank_size": 0}, "config.eval.querybank_size=0: wanted 1 or more"),
        ({"eval__querybank_temperature": 0.0}, "config.eval.querybank_temperature=0.0: wanted more than 0"),
        ({"eval__dual_softmax_temperature": -1.0}, "config.eval.dual_softmax_temperature=-1.0: wanted more than 0"),
        (
            {"eval__normalize": ("sinkhorn",)},
            "config.eval.normalize[0]='sinkhorn': wanted one of 'dual_softmax', 'querybank'; choose",
        ),
        ({"optimizer__learning_rate": -1e-3}, "config.optimizer.learning_rate=-0.001: wanted 0 or more"),
        ({"optimizer__weight_decay": -0.1}, "config.optimizer.weight_decay=-0.1: wanted 0 or more"),
        ({"optimizer__learning_rate": math.nan}, "config.optimizer.learning_rate=nan: wanted 0 or more"),
        ({"loss__interaction_weight": -1.0}, "config.loss.interaction_weight=-1.0: wanted 0 or more"),
        ({"data__frames_per_second": 0.0}, "config.data.frames_per_second=0.0: wanted more than 0; raise it"),
        ({"loss__distillation_temperature": -1.0}, "config.loss.distillation_temperature=-1.0: wanted more than 0"),
        ({"optimizer__eps": 0.0}, "config.optimizer.eps=0.0: wanted more than 0"),
        ({"optimizer__clip_norm": math.nan}, "config.optimizer.clip_norm=nan: wanted more than 0"),
        ({"optimizer__b1": 1.5}, "config.optimizer.b1=1.5: wanted a share in 0..1"),
        ({"optimizer__warmup_rate": 10.0}, "config.optimizer.warmup_rate=10.0: wanted a share in 0..1; write 0.01"),
        ({"seed": -1}, "config.seed=-1: wanted 0 or more"),
        ({"seed": 2**63}, "config.seed=9223372036854775808: wanted 4294967295 or less"),
        ({"data__max_unreadable_rate": -0.1}, "config.data.max_unreadable_rate=-0.1: wanted a share in 0..1"),
        ({"data__video_timeout": -1.0}, "config.data.video_timeout=-1.0: wanted 0 or more"),
        ({"model__header": "rnn"}, "config.model.header='rnn': wanted one of 'none', 'mlp', 'cnn', 'mlp_sa', 'cnn_sa'"),
        ({"model__dtype": "float16"}, "config.model.dtype='float16': wanted one of 'float32', 'bfloat16'; choose"),
        ({"loss__teacher": "random"}, "config.loss.teacher='random': wanted one of 'exact'"),
        ({"loss__divergence": "js"}, "config.loss.divergence='js': wanted one of 'paper', 'published'"),
        ({"model__padding": "zero"}, "config.model.padding='zero': wanted one of 'masked', 'published'"),
        ({"optimizer__name": "sgd"}, "config.optimizer.name='sgd': wanted one of 'adamw', 'muon', 'bert_adam'"),
        ({"optimizer__schedule_share": 0.0}, "config.optimizer.schedule_share=0.0: wanted more than 0"),
        ({"loss__num_samples": 1}, "config.loss.num_samples=1: wanted 2 or more"),
        ({"estimator__num_samples": 1}, "config.estimator.num_samples=1: wanted 2 or more"),
        ({"estimator__num_features": 0}, "config.estimator.num_features=0: wanted 1 or more"),
        ({"estimator__kind": "none"}, "config.estimator.kind='none': wanted one of 'mlp', 'cnn', 'mlp_sa', 'cnn_sa'"),
        ({"estimator__labels": "guessed"}, "config.estimator.labels='guessed': wanted one of 'exact', 'sampled'"),
        (
            {"data__cache_features": True, "data__augmentation": "crop_flip"},
            "config.data.cache_features=True: wanted False if config.data.augmentation is set; turn one of them off",
        ),
        (
            {"data__cache_features": True, "task": "estimator", "eval__best_metric": "correlation"},
            "config.data.cache_features=True: wanted False if config.task='estimator'",
        ),
        ({"task": "chess"}, "config.task='chess': wanted one of 'retrieval', 'estimator', 'answers'"),
        ({"loss__distil": "labels"}, "config.loss.distil='labels': wanted one of 'similarity', 'answers'"),
        ({"loss__answer_weight": -1.0}, "config.loss.answer_weight=-1.0: wanted 0 or more"),
        ({"loss__alignment_weight": -1.0}, "config.loss.alignment_weight=-1.0: wanted 0 or more"),
        ({"answers__top_answers": -1}, "config.answers.top_answers=-1: wanted 0 or more"),
        ({"answers__min_count": 0}, "config.answers.min_count=0: wanted 1 or more"),
        ({"answers__dropout_rate": 1.5}, "config.answers.dropout_rate=1.5: wanted a share in 0..1"),
        ({"loss__caption_weight": -1.0}, "config.loss.caption_weight=-1.0: wanted 0 or more"),
        ({"loss__label_smoothing": 1.5}, "config.loss.label_smoothing=1.5: wanted a share in 0..1"),
        ({"captions__decoder_layers": 0}, "config.captions.decoder_layers=0: wanted 1 or more"),
        ({"captions__dropout_rate": -0.1}, "config.captions.dropout_rate=-0.1: wanted a share in 0..1"),
        ({"captions__method": "guess"}, "config.captions.method='guess': wanted one of 'greedy', 'beam', 'sample'"),
        ({"captions__max_words": 2}, "config.captions.max_words=2: wanted 3 or more"),
        ({"captions__num_beams": 0}, "config.captions.num_beams=0: wanted 1 or more"),
        ({"captions__length_penalty": -1.0}, "config.captions.length_penalty=-1.0: wanted 0 or more"),
        ({"captions__num_samples": 0}, "config.captions.num_samples=0: wanted 1 or more"),
        ({"captions__temperature": 0.0}, "config.captions.temperature=0.0: wanted more than 0"),
        ({"captions__top_k": -1}, "config.captions.top_k=-1: wanted 0 or more"),
        ({"captions__top_p": 0.0}, "config.captions.top_p=0.0: wanted more than 0"),
        ({"captions__top_p": 1.5}, "config.captions.top_p=1.5: wanted a share in 0..1"),
        ({"data__captions_per_video": "two"}, "config.data.captions_per_video='two': wanted one of 'all', 'one'"),
        ({"data__prepare__short_side": 0}, "config.data.prepare.short_side=0: wanted 1 or more"),
        ({"data__prepare__quality": 101}, "config.data.prepare.quality=101: wanted 100 or less; lower it"),
        ({"data__augmentation": "mixup"}, "config.data.augmentation='mixup': wanted one of 'none', 'rand_augment'"),
        ({"data__rand_augment__num_ops": -1}, "config.data.rand_augment.num_ops=-1: wanted 0 or more"),
        ({"data__rand_augment__magnitude": 11.0}, "config.data.rand_augment.magnitude=11.0: wanted 10 or less"),
        ({"data__crop_flip__min_area": 0.0}, "config.data.crop_flip.min_area=0.0: wanted more than 0"),
        ({"data__crop_flip__flip_rate": 2.0}, "config.data.crop_flip.flip_rate=2.0: wanted a share in 0..1"),
        ({"data__dataset": "imagenet"}, "config.data.dataset='imagenet': wanted one of 'activitynet', "),
        ({"data__protocol": "test"}, "config.data.protocol='test': wanted one of 'held_out', 'published'"),
        ({"data__render": "cubes"}, "config.data.render='cubes': wanted one of '', 'shapes'"),
        ({"eval__best_metric": "t2v/R@2"}, "config.eval.best_metric='t2v/R@2': wanted one of 't2v/R@1'"),
        ({"optimizer__frozen": ("ok", "(")}, "config.optimizer.frozen has '(': wanted a regular expression"),
        ({"model__method": "clip4clip"}, "config.model.method='clip4clip': wanted one of 'hbi', 'hcmi'"),
        ({"model__aggregation_layers": -1}, "config.model.aggregation_layers=-1: wanted 0 or more"),
        ({"data__num_views": 3}, "config.data.num_views=3: wanted 2 or less"),
        ({"data__sampling": "odd"}, "config.data.sampling='odd': wanted one of 'even', 'segments'"),
        ({"loss__margin_weight": -1.0}, "config.loss.margin_weight=-1.0: wanted 0 or more"),
        ({"loss__margin": 3.0}, "config.loss.margin=3.0: wanted 2 or less"),
        # A field against another.
        (
            {"data__cache_features": True, "data__sampling": "segments", "model__padding": "published"},
            "config.data.cache_features=True: wanted False if config.data.sampling='segments' and config.model.padding",
        ),
        (
            {"data__num_views": 2},
            "config.data.num_views=2: wanted 1 if config.data.sampling='even', which always takes the same frames; set",
        ),
        (
            {"loss__denoising": True},
            "config.loss.denoising=True: wanted False if the last of config.model.levels is ('event', 4, 2), not one "
            "word and one frame; end the levels with one such as ('video', 1, 1), or turn it off",
        ),
        (
            {"loss__denoising": True, "model__levels": (*LEVELS[:2], ("video", 1, 1))},
            "config.loss.denoising=True: wanted False if config.data.num_views=1; set config.data.num_views=2 and ",
        ),
        (
            {"loss__margin_weight": 1.0},
            "config.loss.margin_weight=1.0: wanted 0.0 if the last of config.model.levels is ('event', 4, 2), not one",
        ),
        (
            {
                "loss__margin_weight": 1.0,
                "task": "captions",
                "data__dataset": "msrvtt_caption",
                "eval__best_metric": "CIDEr",
            },
            "config.loss.margin_weight=1.0: wanted 0.0 if config.task='captions'; turn it off",
        ),
        (
            {"model__method": "hcmi", "model__levels": (("frame", 0, 0), ("clip", 8, 13), ("video", 1, 1))},
            "config.model.levels[1] (clip) frames=13: wanted at most the 12 frames of the level before; use a count",
        ),
        (
            {"model__method": "hcmi", "model__reconstruction": True},
            "config.model.reconstruction=True: wanted the default if config.model.method='hcmi'; it is a part of HBI",
        ),
        (
            {"model__method": "hcmi", "model__padding": "published"},
            "config.model.padding='published': wanted the default if config.model.method='hcmi'",
        ),
        (
            {
                "model__method": "hcmi",
                "task": "answers",
                "data__dataset": "msvd_qa",
                "eval__best_metric": "accuracy",
            },
            "config.model.method='hcmi': wanted 'hbi' if config.task='answers'; choose it, or task='retrieval'",
        ),
        (
            {"data__protocol": "published", "data__num_val_videos": 5},
            "config.data.protocol='published': wanted 'held_out' where config.data.val_list='' and num_val_videos=5",
        ),
        (
            {"data__augmentation": "crop_flip", "data__cache_gib": 1.0},
            "config.data.cache_gib=1.0: wanted 0 if config.data.augmentation is set",
        ),
        (
            {"task": "answers", "eval__best_metric": "accuracy"},
            "config.data.dataset='msrvtt': wanted one of 'activitynet_qa', 'msrvtt_qa', 'msvd_qa', which have "
            "questions, if config.task=",
        ),
        (
            {"task": "captions"},
            "config.eval.best_metric='t2v/R@1': wanted one of 'CIDEr', 'ROUGE-L', 'BLEU-4', 'first_event/accuracy', ",
        ),
        (
            {"task": "captions", "eval__best_metric": "CIDEr", "data__dataset": "msvd_qa"},
            "config.data.dataset='msvd_qa': wanted a data set of captions",
        ),
        (
            {"task": "estimator"},
            "config.eval.best_metric='t2v/R@1': wanted one of 'correlation', 'top1' if config.task='estimator'",
        ),
        (
            {"model__clip__image_size": 230},
            "config.model.clip.image_size=230: wanted a multiple of config.model.clip.patch_size=32; use 224",
        ),
        ({"model__clip__image_size": 10}, "config.model.clip.image_size=10: wanted a multiple"),
        (
            {"model__clip__text_width": 500},
            "config.model.clip.text_width=500: wanted a multiple of config.model.clip.head_features=64; change one",
        ),
        ({"model__clip__embed_features": 500}, "config.model.clip.embed_features=500: wanted a multiple"),
        ({"model__attention": "cudnn"}, "config.model.attention='cudnn': wanted xla if config.model.dtype='float32'"),
        (
            {"model__attention": "cudnn", "model__dtype": "bfloat16", "model__clip__vision_head_features": 12},
            "config.model.attention='cudnn': wanted xla for heads of 12 features",
        ),
        ({"model__merge_heads": 7}, "config.model.merge_heads=7: wanted a divisor of config.model.clip.embed_features"),
        ({"data__num_words": 78}, "config.data.num_words=78: wanted 3 to config.model.clip.context_length=77"),
        ({"data__num_words": 2}, "config.data.num_words=2: wanted 3 to"),
        ({"data__num_frames": 78}, "config.data.num_frames=78: wanted 1 to config.model.max_frames=77; change one"),
        ({"data__num_frames": 0}, "config.data.num_frames=0: wanted 1 to"),
        (
            {"model__levels": (*LEVELS[:1], ("action", 33, 6))},
            "config.model.levels[1] (action) words=33: wanted at most the 32 words of the level before; "
            "use a count <= 32 or raise config.data.num_words",
        ),
        (
            {"model__levels": (*LEVELS[:2], ("event", 4, 7))},
            "config.model.levels[2] (event) frames=7: wanted at most the 6 frames of the level before; use a count",
        ),
        (
            {"model__levels": (*LEVELS[:1], ("action", 0, 6), ("event", 33, 2))},
            "config.model.levels[2] (event) words=33: wanted at most the 32 words",
        ),
        ({"model__levels": (("entity", -1, 0),)}, "config.model.levels[0] (entity) words=-1: wanted at most"),
        ({"model__levels": (("entity", 0),)}, "config.model.levels[0]=('entity', 0): wanted (name, words, frames)"),
        ({"model__levels": ("foo",)}, "config.model.levels[0]='foo': wanted (name, words, frames)"),
        ({"model__levels": ("action", "8", "4")}, "config.model.levels[0]='action': wanted (name, words, frames)"),
        (
            {"model__levels": (("action", "8", "4"),)},
            "config.model.levels[0]=('action', '8', '4'): wanted (name, words",
        ),
        ({"model__levels": ((1, 8, 4),)}, "config.model.levels[0]=(1, 8, 4): wanted (name, words, frames)"),
        ({"model__levels": (("action", 8, True),)}, "config.model.levels[0]=('action', 8, True): wanted (name, words"),
        ({"model__levels": (5,)}, "config.model.levels[0]=5: wanted (name, words, frames)"),
        ({"model__levels": ()}, "config.model.levels=[]: wanted one or more distinct names"),
        ({"model__levels": (LEVELS[0], LEVELS[0])}, "config.model.levels=['entity', 'entity']: wanted one or more"),
        ({"model__pooled": True}, "config.model.levels[1] (action) words=16: wanted at most the 1 words"),
        (
            {"eval__level_rates": (1.0, 0.0)},
            "config.eval.level_rates=(1.0, 0.0): wanted one rate for each of the levels ['entity', 'action', 'event'], "
            "not all 0; write for instance (1.0, 0.0, 0.0)",
        ),
        ({"eval__level_rates": ("a", "b", "c")}, "config.eval.level_rates[0]='a': wanted a number"),
        ({"eval__level_rates": (math.nan, 0.0, 0.0)}, "config.eval.level_rates=(nan, 0.0, 0.0): wanted one rate"),
        ({"eval__normalize": (5,)}, "config.eval.normalize[0]=5: wanted one of 'dual_softmax'"),
        ({"eval__normalize": (["dual_softmax"],)}, "config.eval.normalize[0]=['dual_softmax']: wanted one"),
        ({"loss__distillation_paths": (5,)}, "config.loss.distillation_paths[0]=5: wanted a tuple"),
        ({"loss__distillation_paths": ("entity",)}, "config.loss.distillation_paths[0]='entity': wanted a tuple"),
        ({"optimizer__frozen": (5,)}, "config.optimizer.frozen[0]=5: wanted text"),
        (
            {"model__clip__activation": "relu"},
            "config.model.clip.activation='relu': wanted one of 'quick_gelu', 'gelu'",
        ),
        ({"model__clip__pixels": "grey"}, "config.model.clip.pixels='grey': wanted one of 'clip', 'half'"),
        (
            {"model__clip__vision_head_features": 80},
            "config.model.clip.vision_width=768: wanted a multiple of config.model.clip.vision_head_features=80; ",
        ),
        (
            {"model__clip__text_head_features": 80},
            "config.model.clip.text_width=512: wanted a multiple of config.model.clip.text_head_features=80; ",
        ),
        ({"eval__level_rates": (0.0, 0.0, 0.0)}, "config.eval.level_rates=(0.0, 0.0, 0.0): wanted one rate"),
        ({"train__num_epochs": 0}, "config.train.num_epochs=0: wanted 1 or more if config.train.num_steps is 0"),
    ],
)
def test_what_cannot_work_is_named(fields, message):
    """Field, got, wanted, remedy."""
    with pytest.raises(ConfigError) as raised:
        parse(changed(**fields))
    assert str(raised.value).startswith(message)
    assert "; " in str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"train__num_epochs": 0, "train__num_steps": 1},
        {"model__levels": (*LEVELS[:1], ("action", 32, 12)), "eval__level_rates": (0.5, 0.5)},
        {"model__pooled": True, "model__levels": LEVELS[:1], "eval__level_rates": (1.0,)},
        {"loss__interaction_weight": 0.0, "optimizer__warmup_rate": 1.0, "train__eval_every": 0},
        {"data__num_frames": 77, "data__num_words": 77},
        {"model__clip__vision_width": 1280, "model__clip__vision_head_features": 80, "model__clip__activation": "gelu"},
    ],
)
def test_what_just_works_is_accepted(fields):
    parse(changed(**fields))


def test_types_and_names_are_kept():
    config = default_config().lock()
    with pytest.raises(TypeError):
        config.train.batch_size = "many"
    with pytest.raises(AttributeError, match="batch_sice"):
        config.train.batch_sice = 3
    with pytest.raises((AttributeError, KeyError)):
        config.trian = 3


def test_every_call_makes_its_own_defaults():
    default_config().model.clip.image_size = 1
    assert default_config().model.clip.image_size == 224


def test_what_a_run_wrote_is_read_again(tmp_path):
    """With the defaults of fields that it did not know."""
    config = changed(train__batch_size=64, data__galleries={"own": "own.csv"})
    values = json.loads(config.to_json())
    del values["task"], values["loss"]["teacher"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path / "config.json") == parse(config)
    assert json.loads(to_json(parse(config))) == json.loads(config.to_json())
    # It once told whether both are players.
    for ends, meaning in ((True, "both"), (False, "none")):
        values["model"]["end_tokens"] = ends
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert read_config(tmp_path / "config.json").model.end_tokens == meaning


def test_folders(tmp_path):
    """{workdir} stands for the work folder; what is missing is named with the flag that sets it."""
    config = changed(data__annotations="{workdir}/data")
    dataset = dataset_of(config, "runs/a")
    assert dataset.folder("annotations") == pathlib.Path("runs/a/data")
    with pytest.raises(ConfigError, match=r"config.data.videos is not set: .*add --config.data.videos=FOLDER"):
        dataset.folder("videos")


def test_the_number_of_steps():
    """Given, or from epochs: 5 x 1000 / 128 = 39.06; never none."""
    config = Config()
    assert config.train.length(1000) == 39
    assert config.train.length(3) == 1
    assert config.replace(train__num_steps=12).train.length(1000) == 12


def test_an_estimator_that_teaches_has_to_be_named():
    """Only where something is taught: an evaluation needs none."""
    config = parse(changed(loss__teacher="estimator"))
    with pytest.raises(ConfigError, match=r"config.loss.estimator is not set: wanted the folder of an estimator"):
        make_teacher(config.loss, config.model.padding)


def test_an_unknown_field_of_the_world_is_named():
    config = default_config()
    config.data.world.num_trian = 3
    with pytest.raises(ConfigError, match=r"config.data.world.num_trian is unknown: wanted one of .*num_train"):
        _ = dataset_of(config).world


def load(name):
    spec = importlib.util.spec_from_file_location(f"configs_{name}", ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def sizes(shapes):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    """A folder with an estimator, for the configurations that teach with one."""
    net = InteractionNet("cnn_sa", 4)
    params = random_params(net, jnp.zeros((1, 2, 2)))
    folder = tmp_path_factory.mktemp("weights") / "estimator"
    save(folder, Pretrained("estimator", {"kind": "cnn_sa", "num_features": 4}, params))
    return folder


# A term of the loss that every level has.
TERMS = {"retrieval": "contrastive", "estimator": "squared_error", "answers": "answer", "captions": "contrastive"}


# One of each task and model: its whole step is traced. Those of the others take minutes together and differ in their
# losses only, which are traced.
FEW = ("msrvtt", "estimator", "quickstart", "quickstart_hcmi", "quickstart_qa", "quickstart_caption")


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_every_file_builds_a_training_step(name, estimator, tmp_path):
    """By shapes alone: model, loss and optimizer, and for some files the step that leads back to the same state."""
    config = load(name)
    if config.loss.teacher == "estimator":
        config.loss.estimator = str(estimator)
    if config.task == "answers":
        (tmp_path / "answers.json").write_text('{"yes": 0, "no": 1}')
        config.data.annotations, config.answers.vocabulary = str(tmp_path), "answers.json"
    # The other one needs the training texts.
    config.captions.vocabulary = "clip"
    # Layers are all alike: one file is traced with all of them, in a loop as on TPUs, and the others with one.
    if name == "msrvtt":
        config.model.scan_layers = "on"
    else:
        for field in ("vision_layers", "text_layers"):
            config.model.clip[field] = min(1, config.model.clip[field])
    config = parse(config.lock())
    mesh = make_mesh(config.mesh.data, config.mesh.model)
    task = make_task(config, mesh, epath.Path("runs"))
    assert config.train.batch_size % mesh.shape["data"] == 0
    tx = make_optimizer(config.optimizer, jax.eval_shape(task.init_params), config.train.length(1000))
    state, batch = abstract_state(task.init_params, tx, mesh), task.abstract_batch()
    if name in FEW:
        step = make_train_step(task.loss_fn(), tx, mesh, state_shardings(state))
        after, scalars = step.eval_shape(state, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    else:
        _, scalars = jax.eval_shape(task.loss_fn(), state.params, batch, jax.random.key(0))
    wanted = {f"loss/{level.name}/{TERMS[config.task]}" for level in config.model.levels}
    if config.task == "captions":
        wanted = {"loss/caption"} | (wanted if config.loss.alignment_weight else set())
    assert wanted <= scalars.keys()
    assert {(x.shape, str(x.dtype)) for x in scalars.values()} == {((), "float32")}


def test_every_data_set_can_be_chosen_and_has_a_configuration():
    for name in LOADERS:
        parse(changed(data__dataset=name))
    assert {load(name).data.dataset for name in CONFIGS} == set(LOADERS)


def test_the_paper_s_model_has_the_size_of_vit_b_32():
    """CLIP's own towers and temperature have 151,277,313 parameters; the batch is one of 12 frames and 32 words."""
    config = parse(load("msrvtt"))
    params = jax.eval_shape(functools.partial(init_model, HBI(config.model), config))["params"]
    clip = [params[name] for name in ("text_tower", "vision_tower", "logit_scale")]
    assert sizes(clip) == 151_277_313
    batch = abstract_batch(config)
    assert batch.frames.shape == (128, 12, 224, 224, 3)
    assert batch.token_ids.shape == (128, 32)
    assert batch.frames.dtype == np.uint8


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hbi_jax.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/quickstart.py", "--config.train.batch_sice=8"],
            "error: config.train.batch_sice is no field of the configuration; did you mean config.train.batch_size",
        ),
        ([], "error: --config is missing; give it, for instance --config=quickstart"),
        (["--config=configs/nothing.py"], "error: --config=configs/nothing.py: wanted a configuration file"),
        (["--config", "configs/nothing.py"], "error: --config=configs/nothing.py: wanted a configuration file"),
        (
            ["--config", "configs/msrvtt.py", "--config.model.clip.image_size", "65"],
            "error: config.model.clip.image_size=65: wanted a multiple of config.model.clip.patch_size=32; use 64",
        ),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path):
    """In one message, without a traceback, with exit code 1, before anything is written."""
    workdir = tmp_path / "run"
    result = command(*arguments, f"--workdir={workdir}")
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stdout + result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "localhost:1234"}, "--coordinator given without --multihost: this process would train alone"),
        ({"num_processes": 2, "process_id": 0}, "--num_processes and --process_id given without --multihost: "),
        ({"multihost": True, "coordinator": "localhost"}, "--coordinator=localhost: wanted HOST:PORT of process 0"),
        ({"multihost": True, "coordinator": "localhost:"}, "--coordinator=localhost:: wanted HOST:PORT"),
        ({"multihost": True, "coordinator": ":1234"}, "--coordinator=:1234: wanted HOST:PORT"),
        ({"multihost": True, "coordinator": "a b:1234"}, "--coordinator=a b:1234: wanted HOST:PORT"),
        ({"multihost": True, "coordinator": "http://a:1234"}, "--coordinator=http://a:1234: wanted HOST:PORT"),
        ({"multihost": True, "coordinator": "::1:1234"}, "--coordinator=::1:1234: wanted HOST:PORT"),
        ({"multihost": True, "coordinator": "localhost:x"}, "--coordinator=localhost:x: wanted HOST:PORT"),
        ({"multihost": True, "coordinator": "localhost:65536"}, "--coordinator=localhost:65536: wanted HOST:PORT"),
        (
            {"multihost": True, "num_processes": 2, "process_id": 2},
            "--process_id=2: wanted 0 to 1 where --num_processes=2",
        ),
    ],
)
def test_flags_of_a_process_that_cannot_be_right(given, message, capsys):
    with flagsaver.flagsaver(**given), pytest.raises(SystemExit) as stopped:
        main._check_processes()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "coordinator", ["localhost:1234", "10.0.0.1:65535", "[::1]:1234", "my-host.a_b.example:80", None]
)
def test_flags_of_a_process_that_can_be_right(coordinator):
    with flagsaver.flagsaver(multihost=True, coordinator=coordinator, num_processes=2, process_id=1):
        main._check_processes()
    with flagsaver.flagsaver(multihost=False):
        main._check_processes()
