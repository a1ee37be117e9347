"""Foreign weights in, ours out: from file to folder and back."""

import json
import os
from collections.abc import Mapping

import numpy as np

from hbi_jax.pretrained.errors import PretrainedError
from hbi_jax.pretrained.folder import (
    CONFIG,
    METADATA,
    PUBLISHED,
    WEIGHTS,
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
from hbi_jax.pretrained.sources import Source, open_source
from hbi_jax.pretrained.tensors import from_arrays, write_safetensors
from hbi_jax.pretrained.translate import hf_config, hf_entries, published, towers, translate


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    num_words: int | None = None,
    num_frames: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Writes foreign weights as a folder of ours: all of it, or nothing.

    Args:
      source: A Hugging Face CLIP folder or hub id, or a file: OpenAI's CLIP, a published HBI or answer checkpoint or
        estimator, or an `hbi.safetensors` that `export` wrote.
      destination: A new folder.
      num_words, num_frames: Tokens of a text and of a video, of which the cluster counts of a published HBI are
        shares; None: as published.
      overwrite: Whether to replace the destination where it is one of ours.
      progress: Whether to say on standard error how far it is.

    Raises:
      PretrainedError: If the source cannot be read, is of no known kind, lacks or has too many entries, or does not
        fit together; or if the destination cannot be written.
    """
    check_destination(destination, overwrite, source)
    write_folder(translate(open_source(source), num_words, num_frames), destination, overwrite, progress)


def from_state_dict(
    state: Mapping[str, np.ndarray], num_words: int | None = None, num_frames: int | None = None
) -> Pretrained:
    """The weights of a PyTorch model that is in memory.

    Args:
      state: As numpy arrays, of OpenAI's or Hugging Face's CLIP, or of a published HBI, answer model or estimator.
      num_words, num_frames: As in `convert`.

    Raises:
      PretrainedError: As in `convert`.
    """
    if others := [name for name in state if not isinstance(name, str)]:
        raise PretrainedError(
            f"the state dict has the key {others[0]!r}, wanted names of parameters; pass model.state_dict() as numpy "
            "arrays"
        )
    source = Source("the state dict", from_arrays(state), {}, {})
    return materialize(translate(source, num_words, num_frames), "", progress=False)


def to_state_dict(weights: Pretrained) -> dict[str, np.ndarray]:
    """The weights under their published names, as the PyTorch model's `load_state_dict` takes them.

    A CLIP gets OpenAI's names.
    """
    return {name: np.array(entry.read()) for name, entry in published(contents_of(weights)).items()}


def export(
    folder: str | os.PathLike, destination: str | os.PathLike, overwrite: bool = False, progress: bool = False
) -> None:
    """Writes a folder of ours for PyTorch: all of it, or nothing.

    `model.safetensors` and `config.json` are the towers as `transformers.CLIPModel` opens them; `hbi.safetensors`,
    for all but a CLIP, is the whole under the published names.

    Args:
      folder: What `convert` or `save` wrote.
      destination: A new folder.
      overwrite: Whether to replace the destination where it is one of ours.
      progress: Whether to say on standard error how far it is.

    Raises:
      PretrainedError: If the folder cannot be read or the destination not be written.
    """
    check_destination(destination, overwrite, folder)
    contents = read_folder(folder)
    with new_folder(destination, overwrite) as out:
        if contents.kind != "clip":
            write_safetensors(out / PUBLISHED, published(contents), _metadata(contents), progress)
        if contents.kind != "estimator":
            clip = towers(contents)
            write_safetensors(out / WEIGHTS, hf_entries(clip), _metadata(clip), progress)
            (out / CONFIG).write_text(json.dumps(hf_config(clip.config), indent=2) + "\n", encoding="utf-8")


def _metadata(contents: Contents) -> dict[str, str]:
    # transformers opens a file only if it says who wrote its arrays.
    return {"format": "pt", METADATA: json.dumps(header(contents))}
