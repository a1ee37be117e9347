"""The fields of the data: `config.data`."""

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
# Data sets whose texts are questions with answers.
QUESTIONS = ("activitynet_qa", "msrvtt_qa", "msvd_qa")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How `python -m hbi_jax.data prepare` writes frames."""

    short_side: int = field(
        224,
        "Short side of the frames, in pixels, at least model.clip.image_size; smaller videos keep their size.",
        at_least=1,
    )
    quality: int = field(
        95, "Quality of the JPEGs, in 1..99; 100 writes PNGs, which lose nothing.", at_least=1, at_most=100
    )


@dataclasses.dataclass(frozen=True)
class RandAugmentConfig:
    """RandAugment, the published code's augmentation on MSR-VTT."""

    num_ops: int = field(4, "Operations drawn for each clip.", at_least=0)
    magnitude: float = field(7.0, "Mean of the magnitudes of the operations, in 0..10.", at_least=0, at_most=10)
    magnitude_std: float = field(0.5, "Standard deviation of the magnitudes.", at_least=0)


@dataclasses.dataclass(frozen=True)
class CropFlipConfig:
    """Random crops and mirrors."""

    min_area: float = field(
        0.5, "Smallest square, as a share of the largest that fits into the picture.", above=0, share=True
    )
    flip_rate: float = field(
        0.5, "Share of the clips that are mirrored, of those whose caption does not tell left from right.", share=True
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data is read, and how."""

    dataset: DatasetName = field(
        "msrvtt",
        "Layout of the annotation files: msrvtt, msvd, lsmdc, activitynet and didemo (paragraphs), folder (own "
        "videos), msrvtt_caption for captioning, or msrvtt_qa, msvd_qa and activitynet_qa for task=answers "
        "(docs/data.md).",
    )
    annotations: str | None = field(None, "Folder of the annotation files. {workdir} stands for the work folder.")
    videos: str | None = field(None, "Folder of the video files. {workdir} stands for the work folder.")
    render: Literal["", "shapes"] = field(
        "", "Name of an embedded world to render into the annotation folder first; empty: none."
    )
    world: Mapping[str, Any] = mapping(
        "What is rendered: fields of hbi_jax.data.shapes.WorldConfig. `python -m hbi_jax.data.shapes generate --help` "
        "lists them; those that are absent have their defaults."
    )
    train_list: str = field("", "File of the training video ids; empty: the data set's own.")
    val_list: str = field(
        "", "File of the validation video ids; empty: num_val_videos are held out of the training list."
    )
    num_val_videos: int = field(
        0, "Videos of the training list that are held out for validation where val_list is empty.", at_least=0
    )
    protocol: Literal["held_out", "published"] = field(
        "held_out",
        "What validates. held_out: val_list or num_val_videos, which share no video with any gallery. published: the "
        "first gallery itself, on which the published code selects its checkpoint; the report says so.",
    )
    galleries: Mapping[str, str] = mapping(
        "Galleries that are evaluated at the end: name -> file. A file with a column `group` also gets its in-group "
        "accuracy. Empty: the data set's own."
    )
    square_pixels: bool = field(
        True,
        "Show videos whose pixels are not square as a player does. The published code takes pixels as they are stored.",
    )
    num_words: int = field(32, "Tokens of a text, start and end token included; longer texts are cut.")
    num_frames: int = field(12, "Frames of a video at most.")
    frames_per_second: float = field(1.0, "Density of the grid of candidate frames, per second of video.", above=0)
    captions_per_video: Literal["all", "one"] = field(
        "all", "What an epoch is. all: every caption. one: one caption of every video, drawn anew in every epoch."
    )
    prepared: str = field(
        "",
        "Folder of prepared videos (docs/data.md) that are read instead of the video files. {workdir} stands for the "
        "work folder. Empty: the video files are read.",
    )
    prepare: PrepareConfig = section(PrepareConfig, "How `python -m hbi_jax.data prepare` writes frames.")
    max_unreadable_rate: float = field(
        0.01, "Share of a split's videos that may be unreadable; above it, the run stops and names them.", share=True
    )
    video_timeout: float = field(
        120.0, "Processor time in seconds after which a video counts as unreadable; 0: never.", at_least=0
    )
    cache_gib: float = field(
        0.0,
        "Memory for decoded clips, in GiB: each clip that fits is decoded once and not once an epoch; 0: none.",
        at_least=0,
    )
    num_workers: int = field(0, "Processes that decode; 0: threads of this process.", at_least=0)
    num_threads: int = field(4, "Threads that decode in each process.", at_least=1)
    augmentation: Literal["none", "rand_augment", "crop_flip"] = field(
        "none", "How the frames of training clips are changed."
    )
    rand_augment: RandAugmentConfig = section(RandAugmentConfig, "Settings of augmentation=rand_augment.")
    crop_flip: CropFlipConfig = section(CropFlipConfig, "Settings of augmentation=crop_flip.")

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""
        return bool(self.val_list or self.num_val_videos or self.protocol == "published")

    def validate(self, path: str) -> None:
        """Checks fields that exclude each other."""
        cached = f"0 where {path}.augmentation is set: every clip is decoded anew"
        good = self.augmentation == "none" or self.cache_gib == 0
        require(good, f"{path}.cache_gib", self.cache_gib, cached, "set it to 0")
        wanted = f"'held_out' where {path}.val_list={self.val_list!r} and num_val_videos={self.num_val_videos}"
        good = self.protocol == "held_out" or not (self.val_list or self.num_val_videos)
        require(good, f"{path}.protocol", self.protocol, wanted, "empty those, or keep 'held_out'")
