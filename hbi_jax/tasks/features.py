"""Frame features that runs with one frozen vision tower share, in files."""

import hashlib
import io
import json
import logging
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from hbi_jax.data.source import FrameFeatures, Source
from hbi_jax.files import replace_file

_log = logging.getLogger(__name__)

# Part of the name of a file. Increased when frames are decoded or encoded otherwise.
_FORMAT = 2


class FeatureFile:
    """The features of one split by one tower.

    Attributes:
      path: The file. Its name is a checksum of what the features are made from: the tower, how frames are sampled, and
        the videos with their sizes and times of modification.
    """

    def __init__(self, folder: pathlib.Path, source: Source, tower: Mapping[str, Any]):
        """Reads nothing yet.

        Args:
          folder: Where the file is; made if it does not exist.
          source: The split.
          tower: What else the features depend on, as JSON.
        """
        about = json.dumps([_FORMAT, tower, source.describe_frames()], sort_keys=True)
        self.path = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.npz"

    def read(self, source: Source) -> bool:
        """Gives a source its features, if the file is there and whole."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                features, mask = file["features"], file["mask"]
        except FileNotFoundError:
            return False
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            _log.warning("%s cannot be read (%s); the frames are encoded again", self.path, error)
            return False
        source.use_features(FrameFeatures(features, mask))
        _log.info("%s has the features of the frames of %s", self.path, source.split.name)
        return True

    def write(self, source: Source) -> None:
        """Keeps the features of a source whose every video was read; a folder that cannot be written is a warning."""
        if source.unreadable:
            # The next run may be able to read them.
            _log.info("the features of the frames of %s are not kept: videos are unreadable", source.split.name)
            return
        content = io.BytesIO()
        np.savez(content, **source.features._asdict())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, content.getvalue())
        except OSError as error:
            _log.warning("%s cannot be written (%s); the next run encodes the frames again", self.path, error)
