"""The manifest of a world: which settings a folder was made with, and whether it is whole."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from hbi_jax.data.shapes.config import ShapesError, WorldConfig

MANIFEST_FILE = "manifest.json"
# Raise it with any change of what equal configurations render, write or ask.
WORLD_VERSION = 1


def manifest_bytes(config: WorldConfig, *, finished: bool) -> bytes:
    """Content of the manifest of a world that is whole, or being made."""
    manifest = {
        "version": WORLD_VERSION,
        "config": dataclasses.asdict(config),
        "num_videos": config.num_videos,
        "finished": finished,
    }
    return (json.dumps(manifest, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, None where there is none.

    Raises:
      ShapesError: It is damaged, or something else by that name.
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
    """Never mixes two worlds, nor a world with somebody's data of the same layout.

    Raises:
      ShapesError: The folder holds another world, or such data and no manifest.
    """
    if found is None:
        strange = [name for name in ("videos", "MSRVTT_data.json") if (folder / name).exists()]
        if strange:
            raise ShapesError(
                f"{folder} holds {strange[0]} but no {MANIFEST_FILE}, so moving shapes did not make it; "
                "choose a new or empty folder."
            )
        return
    old = {"version": found["version"], **found["config"]}
    new = {"version": WORLD_VERSION, **dataclasses.asdict(config)}
    changed = [
        f"{key}: {old.get(key)} there, {new.get(key)} asked for"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise ShapesError(
            f"{folder} holds a world of other settings ({'; '.join(changed)}); choose another folder, ask "
            "for the same settings, or delete this folder."
        )


def read_config(folder: str | Path) -> WorldConfig:
    """The configuration that a finished world was made with.

    Raises:
      ShapesError: There is no finished world of this version in the folder.
    """
    found = read_manifest(Path(folder))
    if not found or not found["finished"] or found["version"] != WORLD_VERSION:
        raise ShapesError(
            f"{folder} holds no finished world of moving shapes (version {WORLD_VERSION}); make it: "
            f"python -m hbi_jax.data.shapes generate {folder}"
        )
    return WorldConfig(**found["config"])
