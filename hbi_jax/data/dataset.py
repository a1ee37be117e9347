"""The data of a run: from `config.data` to splits, sources and galleries."""

import dataclasses
import pathlib

from hbi_jax import fields
from hbi_jax.data import shapes
from hbi_jax.data.augment import AUGMENTATIONS, Augmentation
from hbi_jax.data.config import DataConfig
from hbi_jax.data.datasets import GALLERIES, Split, load_split
from hbi_jax.data.prepared import Prepared, Settings, relocated
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.fields import ConfigError


class Dataset:
    """What `config.data` describes.

    Attributes:
      config: The fields.
      tokenizer: CLIP's, at the configured length.
    """

    def __init__(self, config: DataConfig, image_size: int, workdir: str = ""):
        """Reads nothing yet.

        Args:
          config: The fields.
          image_size: Side of the square frames, in pixels.
          workdir: What `{workdir}` stands for in the names of folders.
        """
        self.config, self._image_size, self._workdir = config, image_size, workdir
        self.tokenizer = Tokenizer(config.num_words)

    def folder(self, field: str) -> pathlib.Path:
        """The folder that a field names: `annotations`, `videos` or `prepared`.

        Raises:
          ConfigError: If it is not set.
        """
        value = getattr(self.config, field)
        if not value:
            raise ConfigError(
                f"config.data.{field} is not set: wanted the folder of the {field}; add --config.data.{field}=FOLDER"
            )
        return pathlib.Path(value.replace("{workdir}", self._workdir)).expanduser()

    @property
    def galleries(self) -> tuple[str, ...]:
        """Names of the galleries: those of the configuration, or else the data set's own."""
        return tuple(self.config.galleries or GALLERIES[self.config.dataset])

    def split(self, name: str) -> Split:
        """Reads the annotations of a split or gallery; `val` of the published protocol is the first gallery.

        Where `prepared` is set, the video files are those of that folder.

        Raises:
          ConfigError: If the folders are not set.
          DataError: If the annotations are not what they should be.
        """
        config = self.config
        published = name == "val" and config.protocol == "published"
        videos = self.folder("videos")
        records = load_split(
            config.dataset,
            self.galleries[0] if published else name,
            annotations=self.folder("annotations"),
            videos=videos,
            train_list=config.train_list,
            val_list=config.val_list,
            num_val_videos=config.num_val_videos,
            galleries=dict(config.galleries),
        )
        return relocated(records, videos, self.folder("prepared")) if config.prepared else records

    def source(self, records: Split) -> Source:
        """The rows of a split.

        Raises:
          DataError: If the records are in a prepared folder that lacks what they or the configuration need.
        """
        config = self.config
        return Source(
            records,
            self.tokenizer,
            image_size=self._image_size,
            max_frames=config.num_frames,
            frames_per_second=config.frames_per_second,
            cache_gib=config.cache_gib,
            max_unreadable_rate=config.max_unreadable_rate,
            video_timeout=config.video_timeout,
            captions_per_video=config.captions_per_video,
            square_pixels=config.square_pixels,
            prepared=Prepared.holding(records.videos[0].path) if config.prepared else None,
        )

    @property
    def augmentation(self) -> Augmentation | None:
        """What is done to the frames of training clips."""
        name = self.config.augmentation
        return None if name == "none" else AUGMENTATIONS[name](**fields.plain(getattr(self.config, name)))

    @property
    def prepare_settings(self) -> Settings:
        """How `python -m hbi_jax.data prepare` writes frames."""
        config = self.config
        return Settings(
            **fields.plain(config.prepare),
            frames_per_second=config.frames_per_second,
            square_pixels=config.square_pixels,
        )

    @property
    def world(self) -> shapes.WorldConfig:
        """The embedded world that is rendered.

        Raises:
          ConfigError: If `config.data.world` has an unknown field.
          ShapesError: If a value is out of range.
        """
        known = {field.name for field in dataclasses.fields(shapes.WorldConfig)}
        for name in self.config.world:
            if name not in known:
                raise ConfigError(
                    f"config.data.world.{name} is unknown: wanted one of {', '.join(sorted(known))}; correct it"
                )
        return shapes.WorldConfig(**self.config.world)

    def render(self) -> None:
        """Renders the embedded world into the annotation folder, where `render` asks for one.

        Raises:
          ShapesError: If it cannot be rendered.
        """
        if self.config.render == "shapes":
            shapes.generate(self.folder("annotations"), self.world)
