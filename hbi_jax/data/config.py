"""The fields of `config.data`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from hbi_jax.fields import field, mapping, require, section

DatasetName = Literal[
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
]
# The question-answering data sets.
QUESTIONS = ("activitynet_qa", "msrvtt_qa", "msvd_qa")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Settings of `python -m hbi_jax.data prepare`."""

    short_side: int = field(
        224,
        "Short side of the frames, in pixels, at least model.clip.image_size; smaller videos keep their size.",
        at_least=1,
    )
    quality: int = field(
        95, "Quality of the JPEGs, in 1..99; 100 writes PNGs, which are lossless.", at_least=1, at_most=100
    )


@dataclasses.dataclass(frozen=True)
class RandAugmentConfig:
    """RandAugment, the published code's augmentation on MSR-VTT."""

    num_ops: int = field(4, "Number of operations drawn for each clip.", at_least=0)
    magnitude: float = field(7.0, "Mean magnitude of the operations, in 0..10.", at_least=0, at_most=10)
    magnitude_std: float = field(0.5, "Standard deviation of the magnitudes.", at_least=0)


@dataclasses.dataclass(frozen=True)
class CropFlipConfig:
    """Random crops and horizontal flips."""

    min_area: float = field(
        0.5,
        "Area of the smallest square, as a share of the largest square that fits into the picture.",
        above=0,
        share=True,
    )
    flip_rate: float = field(
        0.5,
        "Share of the clips that are flipped; never one of which a caption, question or answer mentions left or right.",
        share=True,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set and how it is read."""

    dataset: DatasetName = field(
        "msrvtt",
        "Layout of the annotation files: msrvtt, msvd, lsmdc, activitynet or didemo (paragraphs), folder (your own "
        "videos), msrvtt_caption for captioning, or msrvtt_qa, msvd_qa or activitynet_qa for task=answers "
        "(docs/data.md).",
    )
    annotations: str | None = field(None, "Folder of the annotation files. {workdir} stands for the work folder.")
    videos: str | None = field(None, "Folder of the video files. {workdir} stands for the work folder.")
    render: Literal["", "shapes"] = field(
        "", "Embedded world to render into the annotation folder before the run; empty: none."
    )
    world: Mapping[str, Any] = mapping(
        "Settings of the rendered world: fields of hbi_jax.data.shapes.WorldConfig. "
        "`python -m hbi_jax.data.shapes generate --help` lists them; absent fields keep their defaults."
    )
    train_list: str = field("", "File of the training video ids; empty: the data set's default.")
    val_list: str = field(
        "", "File of the validation video ids; empty: num_val_videos videos of the training list are held out."
    )
    num_val_videos: int = field(
        0, "Number of training videos to hold out for validation if val_list is empty.", at_least=0
    )
    protocol: Literal["held_out", "published"] = field(
        "held_out",
        "Validation data. held_out: val_list or num_val_videos, which share no video with any gallery. published: the "
        "first gallery, on which the published code selects its checkpoint; the report says so.",
    )
    galleries: Mapping[str, str] = mapping(
        "Galleries to evaluate at the end: name -> file. If a file has a column `group`, in-group accuracy is reported "
        "too. Empty: the data set's default galleries."
    )
    square_pixels: bool = field(
        True,
        "Scale videos with non-square pixels as a player does. The published code uses the pixels as they are stored.",
    )
    num_words: int = field(
        32, "Maximum number of tokens per text, with the start and end tokens; longer texts are cut."
    )
    num_frames: int = field(12, "Maximum number of frames per video.")
    frames_per_second: float = field(1.0, "Density of the grid of candidate frames, per second of video.", above=0)
    sampling: Literal["even", "segments"] = field(
        "even",
        "How frames are chosen from that grid. even: spread evenly, as in HBI. segments: the grid is divided into "
        "num_frames equal segments; in training, a frame of each is drawn anew every time; otherwise it is the middle "
        "one.",
    )
    num_views: int = field(
        1,
        "Views of each training video, drawn independently and decoded together; 2, for loss.denoising, needs "
        "sampling=segments and a frames_per_second that gives videos more frames than num_frames.",
        at_least=1,
        at_most=2,
    )
    captions_per_video: Literal["all", "one"] = field(
        "all", "Content of an epoch. all: every caption. one: one caption per video, drawn anew in every epoch."
    )
    prepared: str = field(
        "",
        "Folder of prepared videos (docs/data.md) to read instead of the video files. {workdir} stands for the work "
        "folder. Empty: read the video files.",
    )
    prepare: PrepareConfig = section(PrepareConfig, "Settings of `python -m hbi_jax.data prepare`.")
    max_unreadable_rate: float = field(
        0.01,
        "Largest share of a split's videos that may be unreadable; above it, the run stops and names them.",
        share=True,
    )
    video_timeout: float = field(
        120.0, "Processor time in seconds after which a video counts as unreadable; 0: no limit.", at_least=0
    )
    cache_gib: float = field(
        0.0,
        "Memory for decoded clips, in GiB: clips that fit are decoded once instead of once per epoch; 0: no cache.",
        at_least=0,
    )
    cache_features: bool = field(
        False,
        "Compute the vision tower's features of every training video once, before training, and keep them in memory: 4 "
        "bytes per feature and frame, of the whole grid if sampling=segments. The tower must be frozen "
        "(optimizer.frozen), and clips cannot be augmented.",
    )
    feature_folder: str = field(
        "",
        "A folder in which cache_features keeps the features for other runs with the same tower and videos; ablations "
        "use one. Empty: in memory only. A run of several processes does not use it.",
    )
    num_workers: int = field(0, "Number of decoding processes; 0: decode in threads of this process.", at_least=0)
    num_threads: int = field(4, "Number of decoding threads in each process.", at_least=1)
    augmentation: Literal["none", "rand_augment", "crop_flip"] = field("none", "Augmentation of training clips.")
    rand_augment: RandAugmentConfig = section(RandAugmentConfig, "Settings of augmentation=rand_augment.")
    crop_flip: CropFlipConfig = section(CropFlipConfig, "Settings of augmentation=crop_flip.")

    @property
    def has_validation(self) -> bool:
        """Whether the configuration defines a validation split."""
        return bool(self.val_list or self.num_val_videos or self.protocol == "published")

    def validate(self, path: str) -> None:
        """Raises ConfigError if fields exclude each other."""
        cached = f"0 if {path}.augmentation is set, because every clip is decoded anew"
        good = self.augmentation == "none" or self.cache_gib == 0
        require(good, f"{path}.cache_gib", self.cache_gib, cached, "set it to 0")
        good = self.augmentation == "none" or not self.cache_features
        require(good, f"{path}.cache_features", True, f"False if {path}.augmentation is set", "turn one of them off")
        wanted = f"1 if {path}.sampling='even', which always takes the same frames"
        good = self.num_views == 1 or self.sampling == "segments"
        require(good, f"{path}.num_views", self.num_views, wanted, f"set {path}.sampling='segments'")
        wanted = f"'held_out' where {path}.val_list={self.val_list!r} and num_val_videos={self.num_val_videos}"
        good = self.protocol == "held_out" or not (self.val_list or self.num_val_videos)
        require(good, f"{path}.protocol", self.protocol, wanted, "empty those, or keep 'held_out'")
