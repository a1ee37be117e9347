"""The manifest of a world, which records its settings and whether it is complete."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from hbi_jax.data.shapes.config import ShapesError, WorldConfig

MANIFEST_FILE = "manifest.json"
# Increment it when equal configurations would give different videos, annotations or questions.
WORLD_VERSION = 1


def manifest_bytes(config: WorldConfig, *, finished: bool) -> bytes:
    """Returns the content of the manifest of a finished or unfinished world."""
    manifest = {
        "version": WORLD_VERSION,
        "config": dataclasses.asdict(config),
        "num_videos": config.num_videos,
        "finished": finished,
    }
    return (json.dumps(manifest, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of a folder, or None if it has none.

    Raises:
      ShapesError: If the file is damaged or not a manifest of a world.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text())
        missing = {"version", "config", "finished"} - manifest.keys()
    except (ValueError, AttributeError) as error:
        raise ShapesError(f"{path} is damaged ({error}); delete the folder {folder} and generate again.") from error
    if missing:
        raise ShapesError(f"{path} is not a world's manifest (no {sorted(missing)}); choose another folder.")
    return manifest


def check_same_world(folder: Path, found: dict[str, Any] | None, config: WorldConfig) -> None:
    """Raises an error if generating a world would overwrite another world or the user's own data.

    Raises:
      ShapesError: If the folder holds another world, or data in this layout without a manifest.
    """
    if found is None:
        strange = [name for name in ("videos", "MSRVTT_data.json") if (folder / name).exists()]
        if strange:
            raise ShapesError(
                f"{folder} holds {strange[0]} but no {MANIFEST_FILE}, so moving shapes did not make it; "
                "choose a new or empty folder."
            )
        return
    # Worlds of earlier versions lack settings that have been added since; their values were today's defaults.
    old = {"version": found["version"], **dataclasses.asdict(WorldConfig()), **found["config"]}
    new = {"version": WORLD_VERSION, **dataclasses.asdict(config)}
    changed = [
        f"{key}: {old.get(key)} there, {new.get(key)} asked for"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise ShapesError(
            f"{folder} holds a world with other settings ({'; '.join(changed)}); choose another folder, ask "
            "for the same settings, or delete this folder."
        )


def read_config(folder: str | Path) -> WorldConfig:
    """Returns the configuration of a finished world.

    Raises:
      ShapesError: If the folder holds no finished world of this version.
    """
    found = read_manifest(Path(folder))
    if not found or not found["finished"] or found["version"] != WORLD_VERSION:
        raise ShapesError(
            f"{folder} holds no finished world of moving shapes (version {WORLD_VERSION}); generate it: "
            f"python -m hbi_jax.data.shapes generate {shlex.quote(str(folder))}"
        )
    return WorldConfig(**found["config"])
