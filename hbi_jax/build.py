"""From a configuration to objects: below this file nobody sees a ConfigDict."""

import dataclasses
import functools
import pathlib
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.config import ConfigError
from hbi_jax.data import shapes
from hbi_jax.data.answers import Vocabulary
from hbi_jax.data.augment import AUGMENTATIONS, Augmentation
from hbi_jax.data.datasets import GALLERIES, Split, load_split
from hbi_jax.data.prepared import Prepared, Settings, relocated
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.evaluate.answers import AnswerEvaluator
from hbi_jax.evaluate.captions import CaptionEvaluator
from hbi_jax.evaluate.retrieval import RetrievalEvaluator
from hbi_jax.models.answer import AnswerHBI
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.clip import CLIPConfig
from hbi_jax.models.decoding import PADDING, Decoding
from hbi_jax.models.hbi import HBI, HBIConfig, Level
from hbi_jax.train.answers import AnswerLossConfig, answer_loss
from hbi_jax.train.captions import CaptionLossConfig, caption_loss
from hbi_jax.train.loop import LoopConfig
from hbi_jax.train.objective import LossConfig, retrieval_loss
from hbi_jax.train.optimizer import OptimizerConfig
from hbi_jax.train.step import LossFn
from hbi_jax.train.teacher import Teacher, estimator_teacher, exact_teacher, sampled_teacher
from hbi_jax.types import Batch
from hbi_jax.weights import load_weights

_Loss = TypeVar("_Loss", LossConfig, AnswerLossConfig, CaptionLossConfig)


def _plain(section: ConfigDict, **changes: object) -> dict:
    """The section's fields, lists as tuples, some of them replaced."""
    return {**{name: _frozen(value) for name, value in section.items()}, **changes}


def _frozen(value: object) -> object:
    """Lists as tuples, at any depth."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def model(config: ConfigDict) -> HBI:
    """The model of `config.model`."""
    return HBI(_hbi_config(config))


def answer_model(config: ConfigDict, num_answers: int) -> AnswerHBI:
    """The model of `config.model` with the answer heads of `config.answers`."""
    answers = config.answers
    return AnswerHBI(_hbi_config(config), num_answers, answers.dropout_rate, answers.question_only)


def caption_model(config: ConfigDict, tokens: tuple[int, ...] = ()) -> CaptionHBI:
    """The model of `config.model` with the decoder of `config.captions`, whose captions are of `tokens` (none: all)."""
    return CaptionHBI(_hbi_config(config), config.captions.decoder_layers, config.captions.dropout_rate, tokens)


def decoding(config: ConfigDict) -> Decoding:
    """How `config.captions` makes captions."""
    return Decoding(**{field.name: config.captions[field.name] for field in dataclasses.fields(Decoding)})


def _hbi_config(config: ConfigDict) -> HBIConfig:
    levels = tuple(Level(name, words or None, frames or None) for name, words, frames in config.model.levels)
    return HBIConfig(
        **_plain(
            config.model,
            clip=CLIPConfig(**config.model.clip),
            levels=levels,
            dtype=jnp.dtype(config.model.dtype),
        )
    )


def estimator(config: ConfigDict) -> InteractionNet:
    """The network of `config.estimator`."""
    return InteractionNet(config.estimator.kind, config.estimator.num_features)


def labels(config: ConfigDict) -> Teacher:
    """What the estimator learns to imitate, by `config.estimator.labels`."""
    return _computed_teacher(config.estimator.labels, config.loss.interaction_scale, config.estimator.num_samples)


def teacher(config: ConfigDict) -> Teacher:
    """Where the interaction comes from, by `config.loss.teacher`.

    Raises:
      ConfigError: If `config.loss.estimator` is needed and holds no estimator.
    """
    if config.loss.teacher != "estimator":
        return _computed_teacher(config.loss.teacher, config.loss.interaction_scale, config.loss.num_samples)
    path = config.loss.estimator
    if not path:
        raise ConfigError(
            "config.loss.estimator is not set: wanted the folder of an estimator where config.loss.teacher is "
            "'estimator'; train one with configs/estimator.py, or convert the published one"
        )
    found = load_weights(path)
    # A published checkpoint carries the estimator that taught it.
    weights = found if found.kind == "estimator" else found.estimator
    if weights is None:
        raise ConfigError(
            f"config.loss.estimator={path!r} holds weights of kind {found.kind!r}: wanted an estimator; train one "
            "with configs/estimator.py, or convert the published one"
        )
    return estimator_teacher(weights.model, weights.params, config.model.padding)


def _computed_teacher(way: str, scale: float, num_samples: int) -> Teacher:
    return exact_teacher(scale) if way == "exact" else sampled_teacher(scale, num_samples)


def loss_fn(hbi: HBI, config: ConfigDict) -> LossFn:
    """The objective of `config.loss` for retrieval."""
    return functools.partial(retrieval_loss, hbi, _weights(LossConfig, config), teacher(config))


def answer_loss_fn(answer_hbi: AnswerHBI, config: ConfigDict) -> LossFn:
    """The objective of `config.loss` for answers."""
    return functools.partial(answer_loss, answer_hbi, _weights(AnswerLossConfig, config), teacher(config))


def caption_loss_fn(caption_hbi: CaptionHBI, config: ConfigDict) -> LossFn:
    """The objective of `config.loss` for captions."""
    return functools.partial(caption_loss, caption_hbi, _weights(CaptionLossConfig, config), teacher(config))


def _weights(kind: type[_Loss], config: ConfigDict) -> _Loss:
    """Those fields of `config.loss` that an objective has."""
    return kind(**{field.name: _frozen(config.loss[field.name]) for field in dataclasses.fields(kind)})


def optimizer(config: ConfigDict) -> OptimizerConfig:
    """The rates of `config.optimizer`."""
    return OptimizerConfig(**_plain(config.optimizer))


def loop(config: ConfigDict, num_records: int) -> LoopConfig:
    """When the loop does what, for epochs of `num_records` rows (`Source.num_rows`)."""
    train = config.train
    num_steps = train.num_steps or max(1, round(train.num_epochs * num_records / train.batch_size))
    return LoopConfig(num_steps, train.log_every, train.eval_every, train.checkpoint_every)


def retrieval_evaluator(hbi: HBI, config: ConfigDict, mesh: Mesh) -> RetrievalEvaluator:
    """Encodes and scores galleries as `config.eval` says."""
    return RetrievalEvaluator(
        hbi, mesh, config.eval.batch_size, config.eval.video_block, tuple(config.eval.level_rates)
    )


def answer_evaluator(answer_hbi: AnswerHBI, config: ConfigDict, mesh: Mesh) -> AnswerEvaluator:
    """Answers the questions of a split as `config.eval` says."""
    return AnswerEvaluator(answer_hbi, mesh, config.eval.batch_size, tuple(config.eval.level_rates))


def caption_evaluator(caption_hbi: CaptionHBI, config: ConfigDict, mesh: Mesh) -> CaptionEvaluator:
    """Captions the videos of a split."""
    return CaptionEvaluator(caption_hbi, mesh, config.eval.batch_size, tokenizer(config))


def abstract_batch(config: ConfigDict) -> Batch:
    """Shapes and dtypes of a global training batch."""
    b, t, f, size = (
        config.train.batch_size,
        config.data.num_words,
        config.data.num_frames,
        config.model.clip.image_size,
    )
    shapes = Batch(
        token_ids=((b, t), np.int32),
        text_mask=((b, t), bool),
        frames=((b, f, size, size, 3), np.uint8),
        frame_mask=((b, f), bool),
        video_index=((b,), np.int32),
        record_index=((b,), np.int32),
        example_mask=((b,), bool),
    )
    return Batch(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))


def init_params(hbi: HBI, config: ConfigDict) -> PyTree:
    """Freshly initialised parameters, a function of `config.seed` alone."""
    shapes = abstract_batch(config)
    # Parameters do not depend on the number of rows.
    batch = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape[1:]), leaf.dtype), shapes)
    return hbi.init(jax.random.key(config.seed), batch)


def folder(config: ConfigDict, field: str, workdir: str) -> pathlib.Path:
    """The folder that `config.data.annotations`, `config.data.videos` or `config.data.prepared` names.

    Raises:
      ConfigError: If it is not set.
    """
    value = config.data[field]
    if not value:
        raise ConfigError(
            f"config.data.{field} is not set: wanted the folder of the {field}; add --config.data.{field}=FOLDER"
        )
    return pathlib.Path(value.replace("{workdir}", workdir)).expanduser()


def galleries(config: ConfigDict) -> tuple[str, ...]:
    """Names of the galleries: those of the configuration, or else the data set's own."""
    return tuple(config.data.galleries or GALLERIES[config.data.dataset])


def has_validation(config: ConfigDict) -> bool:
    """Whether `val` is a split."""
    return bool(config.data.val_list or config.data.num_val_videos or config.data.protocol == "published")


def split(config: ConfigDict, name: str, workdir: str) -> Split:
    """Reads the annotations of one split or gallery; `val` of the published protocol is the first gallery.

    Where `config.data.prepared` is set, the video files are those of that folder.

    Raises:
      ConfigError: If the folders are not set.
      DataError: If the annotations are not what they should be.
    """
    published = name == "val" and config.data.protocol == "published"
    videos = folder(config, "videos", workdir)
    records = load_split(
        config.data.dataset,
        galleries(config)[0] if published else name,
        annotations=folder(config, "annotations", workdir),
        videos=videos,
        train_list=config.data.train_list,
        val_list=config.data.val_list,
        num_val_videos=config.data.num_val_videos,
        galleries=dict(config.data.galleries),
    )
    return relocated(records, videos, folder(config, "prepared", workdir)) if config.data.prepared else records


def vocabulary(config: ConfigDict, workdir: str) -> Vocabulary:
    """What `config.answers` chooses among: a file's answers, or those of the training split.

    Raises:
      ConfigError: If the folders are not set.
      DataError: If the file or the annotations are not what they should be.
    """
    answers = config.answers
    if answers.vocabulary:
        return Vocabulary.read(folder(config, "annotations", workdir) / answers.vocabulary)
    records = split(config, "train", workdir).records
    return Vocabulary.build([record.answer for record in records], answers.top_answers or None, answers.min_count)


def caption_tokens(config: ConfigDict, workdir: str) -> tuple[int, ...]:
    """What captions are made of, by `config.captions.vocabulary`: the tokens of the training texts, or none for all.

    Raises:
      ConfigError: If the folders are not set.
      DataError: If the annotations are not what they should be.
    """
    if config.captions.vocabulary == "clip":
        return ()
    token_ids, _ = tokenizer(config).encode([record.text for record in split(config, "train", workdir).records])
    return tuple(np.union1d(token_ids, PADDING).tolist())


def tokenizer(config: ConfigDict) -> Tokenizer:
    """CLIP's tokenizer at the configured length."""
    return Tokenizer(config.data.num_words)


def source(config: ConfigDict, records: Split) -> Source:
    """The rows of a split.

    Raises:
      DataError: If the records are in a prepared folder that has not what they or the configuration need.
    """
    return Source(
        records,
        tokenizer(config),
        image_size=config.model.clip.image_size,
        max_frames=config.data.num_frames,
        frames_per_second=config.data.frames_per_second,
        cache_gib=config.data.cache_gib,
        max_unreadable_rate=config.data.max_unreadable_rate,
        video_timeout=config.data.video_timeout,
        captions_per_video=config.data.captions_per_video,
        square_pixels=config.data.square_pixels,
        prepared=Prepared.holding(records.videos[0].path) if config.data.prepared else None,
    )


def prepare_settings(config: ConfigDict) -> Settings:
    """How `config.data` prepares videos."""
    return Settings(config.data.frames_per_second, **config.data.prepare, square_pixels=config.data.square_pixels)


def augmentation(config: ConfigDict) -> Augmentation | None:
    """What is done to the frames of training clips, by `config.data.augmentation`."""
    name = config.data.augmentation
    return None if name == "none" else AUGMENTATIONS[name](**config.data[name])


def world(config: ConfigDict) -> shapes.WorldConfig:
    """The embedded world of `config.data.world`.

    Raises:
      ConfigError: If it has no such field.
      ShapesError: If a value is out of range.
    """
    known = {field.name for field in dataclasses.fields(shapes.WorldConfig)}
    for name in config.data.world:
        if name not in known:
            raise ConfigError(
                f"config.data.world.{name} is unknown: wanted one of {', '.join(sorted(known))}; correct it"
            )
    return shapes.WorldConfig(**_plain(config.data.world))
