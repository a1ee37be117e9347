"""The data set of a run: makes splits, sources and galleries from `config.data`."""

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
    """The data set that `config.data` describes.

    Attributes:
      config: The fields.
      tokenizer: CLIP's tokenizer with the configured length.
    """

    def __init__(self, config: DataConfig, image_size: int, workdir: str = ""):
        """Stores the settings; reads no file.

        Args:
          config: The fields.
          image_size: Side of the square frames, in pixels.
          workdir: The folder that replaces `{workdir}` in the names of folders.
        """
        self.config, self._image_size, self._workdir = config, image_size, workdir
        self.tokenizer = Tokenizer(config.num_words)

    def folder(self, field: str) -> pathlib.Path:
        """Returns the folder that a field names: `annotations`, `videos` or `prepared`.

        Raises:
          ConfigError: If the field is not set.
        """
        value = getattr(self.config, field)
        if not value:
            raise ConfigError(
                f"config.data.{field} is not set: wanted the folder of the {field}; add --config.data.{field}=FOLDER"
            )
        return pathlib.Path(value.replace("{workdir}", self._workdir)).expanduser()

    @property
    def galleries(self) -> tuple[str, ...]:
        """Names of the galleries: the configured ones, or the data set's default."""
        return tuple(self.config.galleries or GALLERIES[self.config.dataset])

    def split(self, name: str) -> Split:
        """Reads the annotations of a split or gallery; in the published protocol `val` is the first gallery.

        If `prepared` is set, the paths of the videos point into the prepared folder.

        Raises:
          ConfigError: If a folder is not set.
          DataError: If the annotations are missing or malformed.
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
        """Returns the source of a split's rows.

        Raises:
          DataError: If the prepared folder lacks clips of the split or does not match the configuration.
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
            sampling=config.sampling,
            prepared=Prepared.holding(records.videos[0].path) if config.prepared else None,
        )

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation of training clips; `None` for no augmentation."""
        name = self.config.augmentation
        return None if name == "none" else AUGMENTATIONS[name](**fields.plain(getattr(self.config, name)))

    @property
    def prepare_settings(self) -> Settings:
        """The settings of `python -m hbi_jax.data prepare`."""
        config = self.config
        return Settings(
            **fields.plain(config.prepare),
            frames_per_second=config.frames_per_second,
            square_pixels=config.square_pixels,
        )

    @property
    def world(self) -> shapes.WorldConfig:
        """The settings of the embedded world to render.

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
        """Renders the embedded world into the annotation folder if `config.data.render` asks for one.

        Raises:
          ShapesError: If the world cannot be rendered.
        """
        if self.config.render == "shapes":
            shapes.generate(self.folder("annotations"), self.world)
