"""Converts files of foreign weights to our folders, and back."""

import json
import logging
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from hbi_jax.models.config import CLIPConfig
from hbi_jax.pretrained.errors import PretrainedError
from hbi_jax.pretrained.folder import (
    METADATA,
    Contents,
    Pretrained,
    check_destination,
    contents_of,
    header,
    materialize,
    new_folder,
    read_folder,
    write_folder,
)
from hbi_jax.pretrained.names import CONFIG, KINDS, PREPROCESSOR, PUBLISHED, WEIGHTS
from hbi_jax.pretrained.settings import ASSUMED, OPENAI, Settings, settings_of
from hbi_jax.pretrained.sizes import build_model
from hbi_jax.pretrained.sources import Source, open_source
from hbi_jax.pretrained.tensors import from_arrays, write_safetensors
from hbi_jax.pretrained.translate import hf_config, hf_entries, hf_preprocessor, published, towers, translate

_log = logging.getLogger(__name__)


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    num_words: int | None = None,
    num_frames: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    activation: str | None = None,
    head_width: int | None = None,
    text_head_width: int | None = None,
    pixels: str | None = None,
) -> None:
    """Converts foreign weights to one of our folders, completely or not at all. Logs every assumption.

    Args:
      source: A folder or hub id of a Hugging Face or open_clip CLIP; or a file: a CLIP saved by OpenAI or open_clip, a
        published HBI or answer checkpoint, an estimator, or an `hbi.safetensors` that `export` wrote.
      destination: A new folder.
      num_words, num_frames: Number of tokens per text and frames per video. They determine the cluster counts of a
        published HBI; None means the published numbers.
      overwrite: Whether to replace the destination if this library wrote it.
      progress: Whether to show progress on standard error.
      activation: The activation of the towers, `quick_gelu` or `gelu`. For this and the following arguments, None
        means the value from a file beside the weights, or else the most likely value.
      head_width, text_head_width: Width of one attention head in the vision tower and in the text tower.
      pixels: The normalisation of pixels: `clip` or `half` (`hbi_jax.models.clip.PIXELS`).

    Raises:
      PretrainedError: If the source cannot be read, is of unknown kind, has missing, unknown or inconsistent entries,
        or if the destination cannot be written.
    """
    check_destination(destination, overwrite, source)
    given = Settings(activation, head_width, text_head_width, pixels)
    contents = translate(open_source(source), num_words, num_frames, given)
    _log_notes(contents)
    write_folder(contents, destination, overwrite, progress)


def from_state_dict(
    state: Mapping[str, np.ndarray],
    num_words: int | None = None,
    num_frames: int | None = None,
    activation: str | None = None,
    head_width: int | None = None,
    text_head_width: int | None = None,
    pixels: str | None = None,
) -> Pretrained:
    """Returns the weights of a PyTorch model in memory. Logs every assumption.

    Args:
      state: The state dict as numpy arrays: of OpenAI's, open_clip's or Hugging Face's CLIP, or of a published HBI,
        answer model or estimator.
      num_words, num_frames, activation, head_width, text_head_width, pixels: As in `convert`.

    Raises:
      PretrainedError: As in `convert`.
    """
    if others := [name for name in state if not isinstance(name, str)]:
        raise PretrainedError(
            f"the state dict has the key {others[0]!r}, wanted names of parameters; pass model.state_dict() as numpy "
            "arrays"
        )
    source = Source("the state dict", from_arrays(state), {}, {})
    contents = translate(source, num_words, num_frames, Settings(activation, head_width, text_head_width, pixels))
    _log_notes(contents)
    return materialize(contents, "", progress=False)


def to_state_dict(weights: Pretrained) -> dict[str, np.ndarray]:
    """Returns the weights under their published names, for the PyTorch model's `load_state_dict`.

    A CLIP gets OpenAI's names.
    """
    return {name: np.array(entry.read()) for name, entry in published(contents_of(weights)).items()}


def export(
    folder: str | os.PathLike, destination: str | os.PathLike, overwrite: bool = False, progress: bool = False
) -> None:
    """Exports one of our folders for PyTorch, completely or not at all.

    Writes the towers to `model.safetensors` and `config.json`, which `transformers.CLIPModel` opens, and adds a
    `preprocessor_config.json` if pixels are not normalised as OpenAI's. For every kind except CLIP and HCMI, also
    writes the whole model to `hbi.safetensors` under the published names, unless its frames have relative positions.
    Logs the changes that the published code needs in order to compute the same.

    Args:
      folder: A folder that `convert` or `save` wrote.
      destination: A new folder.
      overwrite: Whether to replace the destination if this library wrote it.
      progress: Whether to show progress on standard error.

    Raises:
      PretrainedError: If the folder cannot be read or the destination cannot be written.
    """
    check_destination(destination, overwrite, folder)
    contents = read_folder(folder)
    with new_folder(destination, overwrite) as out:
        if contents.kind == "hcmi":
            _log.info("only the towers are exported, because there is no published code of %s", KINDS["hcmi"])
        elif contents.config.get("frame_positions", "absolute") != "absolute":
            _log.warning("only the towers are exported: the published code knows no relative positions of frames")
        elif contents.kind != "clip":
            write_safetensors(out / PUBLISHED, published(contents), _metadata(contents), progress)
            _log_changes(contents)
        if contents.kind != "estimator":
            clip = towers(contents)
            write_safetensors(out / WEIGHTS, hf_entries(clip), _metadata(clip), progress)
            _write_json(out / CONFIG, hf_config(clip.config))
            if CLIPConfig(**clip.config).pixels != OPENAI.pixels:
                _write_json(out / PREPROCESSOR, hf_preprocessor(clip.config))


def _write_json(path: pathlib.Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _log_notes(contents: Contents) -> None:
    """Logs assumptions as warnings, because results depend on them."""
    for note in contents.notes:
        _log.log(logging.WARNING if note.startswith(ASSUMED) else logging.INFO, "%s: %s", contents.origin, note)


def _log_changes(contents: Contents) -> None:
    """Logs the settings of the weights if the published code computes something else."""
    if contents.kind == "estimator":
        return
    found = settings_of(CLIPConfig(**contents.config["clip"]))
    if found != OPENAI:
        _log.warning(
            "%s: the published code computes %s; change it to what these weights were trained with: %s",
            PUBLISHED,
            OPENAI.text(),
            found.text(),
        )
    config = build_model(contents.kind, contents.config).config
    changes = []
    for limit, attend in (
        (config.frame_window, "limit it to the {} before and after a frame"),
        (config.frame_past, "give the first level frames that see themselves and the {} before them"),
    ):
        if limit:
            every = "in the temporal transformer of the published code every frame attends to all others"
            changes.append(f"{every}; {attend.format(limit)}")
    left_out = {"both": "", "start": "the end token", "none": "the two tokens that enclose it"}[config.end_tokens]
    if left_out:
        changes.append(f"in the published code all tokens of a text are players; leave out {left_out}")
    if config.padding == "masked":
        changes.append("in the published code padding takes part in merging and in the alignment; mask it")
    if config.pooled:
        changes.append("in the published code levels see all tokens; give them the sentence vector and the mean frame")
    if not config.header.startswith("cnn"):
        wanted = {"none": "none", "mlp": "one of 1x1 kernels", "mlp_sa": "one of 1x1 kernels, with self-attention"}
        changes.append(f"the published code has a prediction header of 3x3 kernels; give it {wanted[config.header]}")
    for change in changes:
        _log.warning("%s: %s, as these weights were trained", PUBLISHED, change)


def _metadata(contents: Contents) -> dict[str, str]:
    # transformers opens a file only if its metadata names the framework that wrote it.
    return {"format": "pt", METADATA: json.dumps(header(contents))}
