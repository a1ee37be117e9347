"""Every field of a configuration, declared once, and the checks that run before any device work.

A file in `configs/` starts from `default_config()` and changes what differs.
"""

import json
import os
import re

from ml_collections import ConfigDict, config_dict


class ConfigError(ValueError):
    """A configuration that cannot work: names the field, what it got, what is wanted and the remedy."""


def default_config() -> ConfigDict:
    """The defaults: ViT-B/32 with the three levels of HBI V2's paper."""
    config = ConfigDict()

    # What tables call the method.
    config.name = "HBI"
    # What is trained: retrieval, answers (to questions about videos), captions (of videos), or estimator (the network
    # of loss.teacher=estimator).
    config.task = "retrieval"
    # Weights to start from: a folder of `python -m hbi_jax.pretrained convert`, or a work folder. Nothing: random.
    config.init = ""
    # Seed of the initialisation, of the order and augmentation of the training data, and of a teacher that samples.
    config.seed = 0

    config.model = ConfigDict()
    config.model.clip = ConfigDict()
    # Side of the square frames, in pixels; a multiple of patch_size.
    config.model.clip.image_size = 224
    config.model.clip.patch_size = 32
    config.model.clip.vision_width = 768
    config.model.clip.vision_layers = 12
    config.model.clip.text_width = 512
    config.model.clip.text_layers = 12
    # Width of the joint space: of words, frames and everything after the towers.
    config.model.clip.embed_features = 512
    # Width of one attention head; divides the three widths above.
    config.model.clip.head_features = 64
    config.model.clip.vocab_size = 49408
    # Longest text, in tokens, start and end token included.
    config.model.clip.context_length = 77
    # From fine to coarse: name, and how many words and frames are left (0: all those of the level before).
    config.model.levels = (("entity", 0, 0), ("action", 16, 6), ("event", 4, 2))
    # Layers of the temporal transformer over frames.
    config.model.frame_layers = 4
    # Rows of the frame position embedding, at least data.num_frames.
    config.model.max_frames = 77
    # Hidden width of the token-weight MLPs: 128 in HBI V2, twice the embedding in V1. 0: all real tokens weigh the
    # same.
    config.model.weight_features = 1024
    # Tokens are reconstructed for every pair of text and video (HBI V2), by gates of this hidden width.
    config.model.reconstruction = False
    config.model.gate_features = 128
    # The mean-pooling baseline: every level sees one token a side, sentence vector and mean frame.
    config.model.pooled = False
    # Inverse temperature of the contrastive loss at the start, where no weights are loaded; learnt from there.
    config.model.initial_logit_scale = 1 / 0.07
    # Attention heads of the token merge; divides clip.embed_features.
    config.model.merge_heads = 8
    # What padding does: masked (it takes no part in anything) or published (the first paper's code: it is a cell of
    # similarity 0 in maxima and header, enters the merges, and every merged token counts; docs/differences.md).
    config.model.padding = "masked"
    # Prediction header: none, mlp, cnn, mlp_sa or cnn_sa (Table V).
    config.model.header = "cnn_sa"
    config.model.header_features = 64
    # What the towers' backward pass recomputes to save memory: none, elementwise (all but the matrix products) or
    # blocks (everything: one more forward pass).
    config.model.remat = "none"
    # Portions of a video's frames that the vision tower encodes one after the other, each recomputed in the backward
    # pass; divides data.num_frames. For CPU, where remat saves no memory because the compiler undoes it.
    config.model.frame_portions = 1
    # Activations: float32 or bfloat16. Parameters, losses and interaction are float32 always.
    config.model.dtype = "float32"

    config.data = ConfigDict()
    # Layout of the annotation files: msrvtt, msvd, lsmdc, activitynet and didemo (paragraphs), folder (own videos),
    # msrvtt_caption for captioning, or msrvtt_qa, msvd_qa and activitynet_qa for task=answers (docs/data.md).
    config.data.dataset = "msrvtt"
    # Folders of the annotation files and of the video files. {workdir} stands for the work folder.
    config.data.annotations = config_dict.placeholder(str)
    config.data.videos = config_dict.placeholder(str)
    # Name of an embedded world to render into the annotation folder first: shapes, or nothing.
    config.data.render = ""
    # What is rendered: fields of hbi_jax.data.shapes.WorldConfig. Empty: its defaults.
    config.data.world = ConfigDict()
    # File of the training video ids. Nothing: the data set's own.
    config.data.train_list = ""
    # File of the validation video ids, or nothing: then num_val_videos are held out of the training list.
    config.data.val_list = ""
    config.data.num_val_videos = 0
    # What validates: held_out (val_list or num_val_videos, which no gallery may share videos with) or published (the
    # first gallery itself, on whose videos published code selects; the report says so).
    config.data.protocol = "held_out"
    # Text and video of the galleries that are evaluated at the end: name -> file. A file with a column
    # `group` also gets its in-group accuracy. Empty: the data set's own.
    config.data.galleries = ConfigDict()
    # Whether videos whose pixels are not square are shown as a player shows them. The published code takes their pixels
    # as they are stored.
    config.data.square_pixels = True
    # Words of a text, start and end token included; longer texts are cut.
    config.data.num_words = 32
    # Frames of a video at most, and how many a second are candidates.
    config.data.num_frames = 12
    config.data.frames_per_second = 1.0
    # What an epoch is: all captions, or one of every video, drawn anew in every epoch.
    config.data.captions_per_video = "all"
    # Folder of prepared videos (docs/data.md) that are read instead of the video files. {workdir} stands for the work
    # folder. Nothing: the video files.
    config.data.prepared = ""
    # How `python -m hbi_jax.data prepare` writes them: short side of the frames, in pixels, at least
    # model.clip.image_size (smaller videos keep their size), and quality of the JPEGs, in 1..99 (100: PNGs, no loss).
    config.data.prepare = ConfigDict({"short_side": 224, "quality": 95})
    # Share of a split's videos that may be unreadable, in 0..1; above it the run stops with their names.
    config.data.max_unreadable_rate = 0.01
    # Processor time in seconds after which a video counts as unreadable; 0: never.
    config.data.video_timeout = 120.0
    # Decoded clips kept in memory, in GiB, so that each is decoded once and not once an epoch; 0: none.
    config.data.cache_gib = 0.0
    # Processes that decode (0: threads of this one), and threads of each.
    config.data.num_workers = 0
    config.data.num_threads = 4
    # What is done to the frames of training clips: none, rand_augment (the published code's, on MSR-VTT) or crop_flip.
    config.data.augmentation = "none"
    # Settings of hbi_jax.data.augment.RandAugment: operations drawn for a clip; mean of their magnitudes, in 0..10, and
    # its standard deviation.
    config.data.rand_augment = ConfigDict({"num_ops": 4, "magnitude": 7.0, "magnitude_std": 0.5})
    # Settings of hbi_jax.data.augment.CropFlip: smallest square, as a share of the largest; share of mirrored clips.
    config.data.crop_flip = ConfigDict({"min_area": 0.5, "flip_rate": 0.5})

    config.loss = ConfigDict()
    # alpha of Eq. 14: weight of the interaction loss. 0: the interaction is not computed.
    config.loss.interaction_weight = 1.0
    # beta of Eq. 16: weight of the distillation between levels.
    config.loss.distillation_weight = 1.0
    # Which level is distilled into which, such as (("entity", "action"), ("action", "event")). Empty: the first into
    # each other (Table VII).
    config.loss.distillation_paths = ()
    # Where the interaction comes from: exact (closed form), sampled (Monte Carlo) or estimator (a network).
    config.loss.teacher = "exact"
    # Coalitions a pair that `sampled` draws in every step.
    config.loss.num_samples = 1000
    # Weights of `estimator`: a work folder of configs/estimator.py, or a converted folder.
    config.loss.estimator = ""
    # Teacher logits are the interaction times this.
    config.loss.interaction_scale = 1000.0
    # Divides both similarities of the distillation; 1 is the paper's equation.
    config.loss.distillation_temperature = 1.0
    # Two captions of one video in a batch are not each other's negatives.
    config.loss.mask_same_video = True
    # Form of the divergences of interaction and distillation: paper, or published (docs/differences.md).
    config.loss.divergence = "paper"
    # Of task=answers: lambda of Eq. 16, the weight of every level's cross-entropy.
    config.loss.answer_weight = 2.5
    # Of task=answers: weight of every level's contrast and interaction. Of task=captions: of everything but the
    # captions, distillation included (0: that is not computed).
    config.loss.alignment_weight = 1.0
    # Of task=answers: what is distilled, the similarity of question and video (V2) or the answers (V1).
    config.loss.distil = "similarity"
    # Of task=captions: lambda of Eq. 16, the weight of the captions' cross-entropy; and the share of every target that
    # is spread evenly over the vocabulary, in 0..1.
    config.loss.caption_weight = 3.3
    config.loss.label_smoothing = 0.0

    config.answers = ConfigDict()
    # What task=answers chooses among: a file of the annotation folder, {answer: number}; or nothing: the answers of the
    # training split, of which top_answers are kept, the most frequent (0: all), those that occur min_count times.
    config.answers.vocabulary = ""
    config.answers.top_answers = 0
    config.answers.min_count = 1
    # Questions that training asks about a video at a time: the row's own and others of the same video. The video is
    # decoded and encoded once for all of them.
    config.answers.questions_per_video = 1
    # Share of the answer heads' inputs that training drops.
    config.answers.dropout_rate = 0.1
    # A model that never sees a frame, to know what the questions alone give away.
    config.answers.question_only = False

    config.captions = ConfigDict()
    # Layers of the decoder of task=captions, and the share of its sublayers' results that training drops.
    config.captions.decoder_layers = 1
    config.captions.dropout_rate = 0.1
    # Tokens that captions are made of: clip (all 49,408 of its vocabulary), or training (those of the training texts,
    # which makes decoder and training cheaper).
    config.captions.vocabulary = "clip"
    # Captions of a video that training teaches at a time: the row's own and others of the same video. The video is
    # decoded and encoded once for all of them.
    config.captions.references_per_video = 1
    # How captions are made: greedy, beam or sample.
    config.captions.method = "beam"
    # Tokens of a generated caption at most, start and end token included; at most data.num_words.
    config.captions.max_words = 30
    # Of beam: captions that the search keeps, and the power of their length that log-probabilities are divided by.
    config.captions.num_beams = 5
    config.captions.length_penalty = 1.0
    # Of sample: captions a video, divisor of the logits, and which of the likeliest tokens are drawn from: so many (0:
    # all), and those that have this probability together, in 0..1.
    config.captions.num_samples = 1
    config.captions.temperature = 1.0
    config.captions.top_k = 0
    config.captions.top_p = 1.0

    config.estimator = ConfigDict()
    # The network that task=estimator trains: its kind, as model.header, and its width.
    config.estimator.kind = "cnn_sa"
    config.estimator.num_features = 64
    # What it imitates: the exact interaction, or the sampled one.
    config.estimator.labels = "exact"
    # Coalitions a pair of sampled labels, and of the sampling that the report compares with.
    config.estimator.num_samples = 1000

    config.optimizer = ConfigDict()
    # adamw; muon, which orthogonalises the updates of matrices, takes the rates of adamw, and learns in fewer steps
    # where nothing is pre-trained; or the published code's bert_adam: no bias correction, tensors clipped one by one,
    # only biases exempt from decay, a cosine of the whole progress.
    config.optimizer.name = "adamw"
    # Peak learning rates of the new modules and of CLIP's towers.
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_learning_rate = 1e-7
    # Share of the steps that warm up linearly, in 0..1; then cosine to 0.
    config.optimizer.warmup_rate = 0.1
    # Length of the schedule as a share of the run; below 1 the cosine of bert_adam comes back up, as in the published
    # runs of ten epochs.
    config.optimizer.schedule_share = 1.0
    # Decoupled decay; not on biases, norms, embeddings of position and class, and scalars.
    config.optimizer.weight_decay = 0.2
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    # Global norm that gradients are clipped to.
    config.optimizer.clip_norm = 1.0
    # Regular expressions of parameter names that stay as they are, such as "vision_tower/patch_embedding".
    config.optimizer.frozen = ()
    # Upper bound of exp(logit_scale).
    config.optimizer.max_logit_scale = 100.0

    config.train = ConfigDict()
    # Rows of the global batch; a multiple of the mesh's data axis.
    config.train.batch_size = 128
    # Length: steps, or (where num_steps is 0) epochs over the training texts.
    config.train.num_steps = 0
    config.train.num_epochs = 5
    # Steps between two log rows, two validations, two checkpoints (0: no validation before the end).
    config.train.log_every = 50
    config.train.eval_every = 500
    config.train.checkpoint_every = 500

    config.eval = ConfigDict()
    # Texts or videos encoded at a time, and videos of a similarity block.
    config.eval.batch_size = 128
    config.eval.video_block = 16
    # How much each level's similarity counts; 0: the level is not computed.
    config.eval.level_rates = (1.0, 0.0, 0.0)
    # Metric of the validation whose largest value marks the best checkpoint: t2v/R@1, v2t/R@10, Rsum, ... of
    # retrieval; accuracy or in_vocabulary/accuracy of answers; CIDEr, ROUGE-L or BLEU-4 of captions, or, where they
    # are the embedded world's, first_event/accuracy or all_events/accuracy; correlation or top1 of the estimator.
    config.eval.best_metric = "t2v/R@1"
    # Normalisations of retrieval's similarities that get rows of their own in the report, beside the plain ones:
    # dual_softmax (over all test queries) and querybank (over training queries). Validation never uses them.
    config.eval.normalize = ()
    # What similarities are divided by in the softmax of each.
    config.eval.dual_softmax_temperature = 0.01
    config.eval.querybank_temperature = 0.05
    # Training texts of the querybank at most, with their videos.
    config.eval.querybank_size = 1000
    # The report's table also gets the same model untrained, and mean-pooled features.
    config.eval.baselines = True
    # Of task=answers: the work folder of a run with answers.question_only, whose figures the table then has, too.
    config.eval.question_only_run = ""
    # Test videos drawn with their interaction.
    config.eval.num_pictures = 4

    config.mesh = ConfigDict()
    # Devices along the batch (-1: all that are left) and along the towers' widths.
    config.mesh.data = -1
    config.mesh.model = 1

    return config


def read_config(path: str | os.PathLike[str]) -> ConfigDict:
    """The configuration that a run wrote into its work folder, `config.json`; newer fields have their defaults."""
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    config = default_config()
    config.update(ConfigDict(values))
    return config


# Numbers and the least that each may be.
_LEAST = {
    "model.clip.image_size": 1,
    "model.clip.patch_size": 1,
    "model.clip.vision_width": 1,
    "model.clip.vision_layers": 1,
    "model.clip.text_width": 1,
    "model.clip.text_layers": 1,
    "model.clip.embed_features": 1,
    "model.clip.head_features": 1,
    "model.clip.vocab_size": 1,
    "model.clip.context_length": 3,
    "model.frame_layers": 0,
    "model.weight_features": 0,
    "model.gate_features": 1,
    "model.merge_heads": 1,
    "model.frame_portions": 1,
    "model.header_features": 1,
    "data.num_val_videos": 0,
    "data.cache_gib": 0,
    "data.video_timeout": 0,
    "data.prepare.short_side": 1,
    "data.prepare.quality": 1,
    "data.num_workers": 0,
    "data.num_threads": 1,
    "data.rand_augment.num_ops": 0,
    "data.rand_augment.magnitude": 0,
    "data.rand_augment.magnitude_std": 0,
    "loss.interaction_weight": 0,
    "loss.num_samples": 2,
    "estimator.num_features": 1,
    "estimator.num_samples": 2,
    "loss.distillation_weight": 0,
    "loss.answer_weight": 0,
    "loss.alignment_weight": 0,
    "loss.caption_weight": 0,
    "captions.decoder_layers": 1,
    "captions.references_per_video": 1,
    "captions.max_words": 3,
    "captions.num_beams": 1,
    "captions.length_penalty": 0,
    "captions.num_samples": 1,
    "captions.top_k": 0,
    "answers.top_answers": 0,
    "answers.min_count": 1,
    "answers.questions_per_video": 1,
    "optimizer.learning_rate": 0,
    "optimizer.clip_learning_rate": 0,
    "optimizer.weight_decay": 0,
    "train.batch_size": 2,
    "train.num_steps": 0,
    "train.num_epochs": 0,
    "train.log_every": 1,
    "train.eval_every": 0,
    "train.checkpoint_every": 1,
    "eval.batch_size": 1,
    "eval.video_block": 1,
    "eval.querybank_size": 1,
    "eval.num_pictures": 0,
    "mesh.model": 1,
}

# Positive numbers.
_POSITIVE = (
    "optimizer.schedule_share",
    "model.initial_logit_scale",
    "data.frames_per_second",
    "data.crop_flip.min_area",
    "loss.interaction_scale",
    "loss.distillation_temperature",
    "eval.dual_softmax_temperature",
    "eval.querybank_temperature",
    "captions.temperature",
    "captions.top_p",
    "optimizer.eps",
    "optimizer.clip_norm",
    "optimizer.max_logit_scale",
)

# Shares.
_RATES = (
    "data.max_unreadable_rate",
    "data.crop_flip.min_area",
    "data.crop_flip.flip_rate",
    "optimizer.warmup_rate",
    "optimizer.b1",
    "optimizer.b2",
    "answers.dropout_rate",
    "loss.label_smoothing",
    "captions.dropout_rate",
    "captions.top_p",
)

# Metrics of each task of which more is better.
_BEST_METRICS = {
    "retrieval": (*(f"{way}/R@{rank}" for way in ("t2v", "v2t") for rank in (1, 5, 10, 50)), "Rsum"),
    "estimator": ("correlation", "top1"),
    "answers": ("accuracy", "in_vocabulary/accuracy"),
    "captions": ("CIDEr", "ROUGE-L", "BLEU-4", "first_event/accuracy", "all_events/accuracy"),
}
# Data sets of questions.
_QUESTIONS = ("activitynet_qa", "msrvtt_qa", "msvd_qa")
_NORMALIZATIONS = ("dual_softmax", "querybank")
_NETS = ("none", "mlp", "cnn", "mlp_sa", "cnn_sa")

_CHOICES = {
    "task": tuple(_BEST_METRICS),
    "model.header": _NETS,
    "model.padding": ("masked", "published"),
    "model.remat": ("none", "elementwise", "blocks"),
    "model.dtype": ("float32", "bfloat16"),
    "loss.teacher": ("exact", "sampled", "estimator"),
    "loss.divergence": ("paper", "published"),
    "loss.distil": ("similarity", "answers"),
    "captions.method": ("greedy", "beam", "sample"),
    "captions.vocabulary": ("clip", "training"),
    "optimizer.name": ("adamw", "muon", "bert_adam"),
    "estimator.kind": _NETS[1:],
    "estimator.labels": ("exact", "sampled"),
    "data.dataset": (
        "activitynet",
        "activitynet_qa",
        "didemo",
        "folder",
        "lsmdc",
        "msrvtt",
        "msrvtt_caption",
        "msrvtt_qa",
        "msvd",
        "msvd_qa",
    ),
    "data.protocol": ("held_out", "published"),
    "data.render": ("", "shapes"),
    "data.captions_per_video": ("all", "one"),
    "data.augmentation": ("none", "rand_augment", "crop_flip"),
}


def _get(config: ConfigDict, field: str) -> object:
    for part in field.split("."):
        config = config[part]
    return config


def _wanted(condition: bool, field: str, got: object, wanted: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"config.{field}={got!r}: wanted {wanted}; {remedy}")


def validate(config: ConfigDict) -> None:
    """Checks every field, alone and against the others.

    Raises:
      ConfigError: Names field, got, wanted and remedy, for the first field that cannot work.
    """
    for field, least in _LEAST.items():
        got = _get(config, field)
        _wanted(got >= least, field, got, f"{least} or more", "raise it")
    for field in _POSITIVE:
        got = _get(config, field)
        _wanted(got > 0, field, got, "more than 0", "raise it")
    for field in _RATES:
        got = _get(config, field)
        _wanted(0 <= got <= 1, field, got, "a share in 0..1", "write 0.01 for 1 %")
    for field, choices in _CHOICES.items():
        got = _get(config, field)
        _wanted(got in choices, field, got, "one of " + ", ".join(map(repr, choices)), "choose one of them")
    best, metrics = config.eval.best_metric, _BEST_METRICS[config.task]
    wanted = f"one of {', '.join(map(repr, metrics))} where config.task={config.task!r}"
    _wanted(best in metrics, "eval.best_metric", best, wanted, "choose one of them")
    _wanted(
        config.task != "answers" or config.data.dataset in _QUESTIONS,
        "data.dataset",
        config.data.dataset,
        f"one of {', '.join(map(repr, _QUESTIONS))}, which have questions, where config.task='answers'",
        "choose one of them",
    )
    captions = "a data set of captions, such as 'msrvtt_caption', where config.task='captions'"
    _wanted(
        config.task != "captions" or config.data.dataset not in _QUESTIONS,
        "data.dataset",
        config.data.dataset,
        captions,
        "choose one",
    )

    clip, model, data, train = config.model.clip, config.model, config.data, config.train
    either = "change one of them"
    sizes = f"a multiple of config.model.clip.patch_size={clip.patch_size}"
    nearest = max(1, round(clip.image_size / clip.patch_size)) * clip.patch_size
    _wanted(
        clip.image_size % clip.patch_size == 0,
        "model.clip.image_size",
        clip.image_size,
        sizes,
        f"use {nearest}",
    )
    for name in ("vision_width", "text_width", "embed_features"):
        heads = f"a multiple of config.model.clip.head_features={clip.head_features}"
        _wanted(clip[name] % clip.head_features == 0, f"model.clip.{name}", clip[name], heads, either)
    divisor = f"a divisor of config.model.clip.embed_features={clip.embed_features}"
    _wanted(clip.embed_features % model.merge_heads == 0, "model.merge_heads", model.merge_heads, divisor, either)

    words = f"3 to config.model.clip.context_length={clip.context_length}"
    _wanted(3 <= data.num_words <= clip.context_length, "data.num_words", data.num_words, words, either)
    length = f"at most config.data.num_words={data.num_words}, which is what training shows"
    fits = config.task != "captions" or config.captions.max_words <= data.num_words
    _wanted(fits, "captions.max_words", config.captions.max_words, length, either)
    frames = f"1 to config.model.max_frames={model.max_frames}"
    _wanted(1 <= data.num_frames <= model.max_frames, "data.num_frames", data.num_frames, frames, either)
    portions = f"a divisor of config.data.num_frames={data.num_frames}"
    _wanted(data.num_frames % model.frame_portions == 0, "model.frame_portions", model.frame_portions, portions, either)
    quality = data.prepare.quality
    _wanted(quality <= 100, "data.prepare.quality", quality, "100 or less", "lower it")
    magnitude = data.rand_augment.magnitude
    _wanted(magnitude <= 10, "data.rand_augment.magnitude", magnitude, "10 or less", "lower it")
    cached = "0 where config.data.augmentation is set: every clip is decoded anew"
    _wanted(data.augmentation == "none" or data.cache_gib == 0, "data.cache_gib", data.cache_gib, cached, "set it to 0")
    held_out = f"'held_out' where config.data.val_list={data.val_list!r} and num_val_videos={data.num_val_videos}"
    _wanted(
        data.protocol == "held_out" or not (data.val_list or data.num_val_videos),
        "data.protocol",
        data.protocol,
        held_out,
        "empty those, or keep 'held_out'",
    )
    _validate_levels(config)

    for field, bad in (("pooled", model.pooled), ("padding", model.padding == "published")):
        wanted = "reconstruction knows padding and has tokens to mix; turn config.model.reconstruction off"
        _wanted(not (model.reconstruction and bad), f"model.{field}", model[field], "another", wanted)
    rates, names = tuple(config.eval.level_rates), [level[0] for level in model.levels]
    for path in config.loss.distillation_paths:
        wanted = f"(teacher, student), two different of the levels {names}"
        good = len(path) == 2 and set(path) <= set(names) and path[0] != path[1]
        _wanted(good, "loss.distillation_paths", path, wanted, "correct it")
    wanted = f"one rate for each of the levels {names}, not all 0"
    example = f"write for instance {(1.0,) + (0.0,) * (len(names) - 1)}"
    _wanted(len(rates) == len(names) and any(rates), "eval.level_rates", rates, wanted, example)
    normalize = tuple(config.eval.normalize)
    wanted = f"a tuple of {', '.join(map(repr, _NORMALIZATIONS))}, where config.task='retrieval' alone"
    fits = set(normalize) <= set(_NORMALIZATIONS) and (config.task == "retrieval" or not normalize)
    _wanted(fits, "eval.normalize", normalize, wanted, "write for instance ('dual_softmax',), or ()")
    _wanted(
        train.num_steps > 0 or train.num_epochs > 0,
        "train.num_epochs",
        train.num_epochs,
        "1 or more where config.train.num_steps is 0",
        "raise one of them",
    )
    for pattern in config.optimizer.frozen:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"config.optimizer.frozen has {pattern!r}: wanted a regular expression ({error}); correct it"
            ) from error


def _validate_levels(config: ConfigDict) -> None:
    """Every cluster count is at most the tokens of the level before; names are distinct."""
    levels = config.model.levels
    for row, level in enumerate(levels):
        wanted = "(name, words, frames), a name and two counts"
        _wanted(len(level) == 3, f"model.levels[{row}]", level, wanted, 'write for instance ("action", 16, 6)')
    names = [level[0] for level in levels]
    distinct = len(names) > 0 and len(set(names)) == len(names)
    _wanted(distinct, "model.levels", names, "one or more distinct names", "rename them")
    pooled = config.model.pooled  # leaves one token a side to begin with
    for side, column, tokens in (("words", 1, config.data.num_words), ("frames", 2, config.data.num_frames)):
        tokens = 1 if pooled else tokens
        for row, level in enumerate(levels):
            count, wanted = level[column], f"at most the {tokens} {side} of the level before"
            remedy = f"use a count <= {tokens} or " + (
                "turn config.model.pooled off" if pooled else f"raise config.data.num_{side}"
            )
            _wanted(0 <= count <= tokens, f"model.levels[{row}] ({level[0]}) {side}", count, wanted, remedy)
            tokens = count or tokens
