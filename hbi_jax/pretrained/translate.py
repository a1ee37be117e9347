"""Translates foreign names to ours and back; every name has to be known."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hbi_jax.models.clip import PIXELS
from hbi_jax.models.config import CLIPConfig
from hbi_jax.pretrained import tables
from hbi_jax.pretrained.errors import PretrainedError, listed, naming
from hbi_jax.pretrained.folder import ESTIMATOR, METADATA, PARAMS, UNUSED, Contents, described
from hbi_jax.pretrained.names import CONFIG, KINDS, OPEN_CLIP, TOKENS
from hbi_jax.pretrained.settings import (
    OPENAI,
    Settings,
    check_given,
    hugging_face,
    open_clip,
    settle,
)
from hbi_jax.pretrained.sizes import MERGE_HEADS, build_model, model_config, published_levels, verify
from hbi_jax.pretrained.sources import Source
from hbi_jax.pretrained.tables import Row
from hbi_jax.pretrained.tensors import Entry, from_arrays

# The formats of foreign weights: our kind, and a description.
_MAKES = {
    "hf": ("clip", "CLIP as Hugging Face names it"),
    "openai": ("clip", "CLIP as OpenAI names it"),
    "hbi": ("hbi", "published HBI checkpoint"),
    "answer": ("answer", "published HBI answer checkpoint"),
    "estimator": ("estimator", "published estimator"),
}


def translate(
    source: Source, num_words: int | None = None, num_frames: int | None = None, given: Settings | None = None
) -> Contents:
    """Recognises foreign weights and maps every tensor to our name, without reading the tensors.

    Args:
      source: The opened source.
      num_words, num_frames: Number of tokens per text and frames per video. They determine the cluster counts of a
        published HBI; None means the published numbers.
      given: The settings of the towers that the user gives; they override a file beside the weights.

    Raises:
      PretrainedError: If the kind is unknown, or entries are missing, unknown or inconsistent.
    """
    where, given = source.where, given or Settings()
    check_given(given)
    entries, unwrapped = _unwrap(source.entries)
    make, prefix = _recognise(entries, where)
    kind, origin = _MAKES[make]
    exported = _exported(source, kind)
    if given != Settings() and (exported or kind == "estimator"):
        raise PretrainedError(
            f"{where} is {KINDS[kind]}{', with its configuration' if exported else ''}: activation, head widths and "
            "pixels are for CLIPs, HBI and answer checkpoints without one; leave them out"
        )
    by_rates = kind in TOKENS and not exported
    if (num_words or num_frames) and not by_rates:
        raise PretrainedError(
            f"{where} is {KINDS[kind]}{', with its configuration' if exported else ''}: numbers of words and frames "
            "are for published HBI and answer checkpoints; leave them out"
        )

    levels = published_levels(kind, num_words, num_frames) if by_rates else exported.get("levels", [])
    rows, nets = _rows(make, prefix, entries, levels)
    beside = any(name.startswith(tables.TEACHER) for name in entries) and kind in TOKENS
    teacher = tables.interaction_net(f"{tables.TEACHER}Q" in entries, tables.TEACHER) if beside else []
    # No model uses the networks' batch normalisation; keep it so that an export can write it again.
    kept = [f"{net}{name}" for net in [*nets, *[tables.TEACHER] * beside] for name in tables.BATCH_NORM]
    kept = [name for name in kept if name in entries]
    _account(entries, [*rows, *teacher], kept, make, where)

    out = {PARAMS + path: entry for path, entry in _ours(rows, entries).items()}
    out |= {ESTIMATOR + path: entry for path, entry in _ours(teacher, entries).items()}
    out |= {UNUSED + name.removeprefix(prefix): entries[name] for name in kept}
    notes = source.notes + unwrapped
    contents = Contents(kind, exported, "an export of hbi_jax" if exported else origin, out, notes)
    if not exported:
        shapes, first = contents.shapes(PARAMS), levels[0][0] if levels else ""
        untold, settled = {}, ()
        if kind != "estimator":
            # Shapes do not reveal the head width; 1 divides the width of every tower.
            with naming(where):
                config = model_config(kind, shapes, first, {"head_features": 1})
            sizes = CLIPConfig(**(config if kind == "clip" else config["clip"]))
            told, by = _told(source, make, entries, sizes)
            untold, settled = settle(given, told, by, sizes)
        with naming(where):
            config = model_config(kind, shapes, first, untold)
        more = {"levels": levels, "merge_heads": MERGE_HEADS, "padding": "published"} if by_rates else {}
        contents = contents._replace(config=config | more, notes=notes + settled)
    names = {row.ours: " + ".join(row.theirs) for row in rows}
    verify(kind, contents.config, contents.shapes(PARAMS), where, names)
    if teacher:
        names = {row.ours: " + ".join(row.theirs) for row in teacher}
        verify("estimator", contents.estimator_config(), contents.shapes(ESTIMATOR), where, names)
    _check_norms(entries, [*nets, *[tables.TEACHER] * beside], where)
    return contents


def published(contents: Contents) -> dict[str, Entry]:
    """Returns the weights under their published names; those of a CLIP under OpenAI's.

    Raises:
      PretrainedError: If the published code has no such model.
    """
    kind, params, config = contents.kind, contents.part(PARAMS), contents.config
    widths = {}  # features of each network, by the prefix of its published names
    if kind == "clip":
        rows = tables.openai_clip(*_layers(config))
    elif kind == "estimator":
        rows, widths[""] = tables.interaction_net(config["kind"].endswith("_sa")), config["num_features"]
    else:
        hbi = build_model(kind, config).config
        levels = list(hbi.levels)
        net = [] if hbi.header == "none" else tables.interaction_net(hbi.header.endswith("_sa"))
        layers = *_layers(config["clip"]), hbi.frame_layers
        rows = tables.published_hbi(levels, *layers, net, kind == "answer")
        widths = dict.fromkeys(tables.headers(len(levels)) if net else (), hbi.header_features)
    if left := sorted(set(params) - {row.ours for row in rows}):
        raise PretrainedError(
            f"the published code has no place for {listed(left, most=3)}, which are part of this {KINDS[kind]}; keep "
            "the folder of hbi_jax, which `hbi_jax.load` reads"
        )
    if absent := sorted({row.ours for row in rows} - set(params)):
        raise PretrainedError(
            f"the published code has {listed(absent, most=3)}, which this {KINDS[kind]} lacks; keep the folder of "
            "hbi_jax, which `hbi_jax.load` reads"
        )
    out = _theirs(rows, params)
    if beside := contents.part(ESTIMATOR):
        estimator = contents.estimator_config()
        out |= _theirs(tables.interaction_net(estimator["kind"].endswith("_sa"), tables.TEACHER), beside)
        widths[tables.TEACHER] = estimator["num_features"]
    norms = {f"{net}{name}": make(n) for net, n in widths.items() for name, make in tables.BATCH_NORM.items()}
    return out | from_arrays(norms) | contents.part(UNUSED)


def towers(contents: Contents) -> Contents:
    """Returns the CLIP within another model."""
    if contents.kind == "clip":
        return contents
    parts = ("text_tower/", "vision_tower/", "logit_scale")
    entries = {name: entry for name, entry in contents.part(PARAMS).items() if name.startswith(parts)}
    entries = {PARAMS + name: entry for name, entry in entries.items()}
    return Contents("clip", contents.config["clip"], contents.origin, entries)


def hf_entries(clip: Contents) -> dict[str, Entry]:
    """Returns a CLIP under Hugging Face's names."""
    return _theirs(tables.hf_clip(*_layers(clip.config)), clip.part(PARAMS))


def hf_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of Hugging Face's `config.json` for a CLIP of our configuration."""
    clip = CLIPConfig(**config)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": clip.embed_features,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": clip.vocab_size,
            "max_position_embeddings": clip.context_length,
            # With this value, transformers takes the sentence vector at the largest token id, for any vocabulary.
            "eos_token_id": 2,
            **_hf_transformer(clip, clip.text_width, clip.text_layers, clip.text_heads, clip.text_mlp_features),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": clip.image_size,
            "patch_size": clip.patch_size,
            **_hf_transformer(clip, clip.vision_width, clip.vision_layers, clip.vision_heads, clip.vision_mlp_features),
        },
    }


def hf_preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of Hugging Face's `preprocessor_config.json` for a CLIP of our configuration."""
    clip = CLIPConfig(**config)
    mean, std = PIXELS[clip.pixels]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": clip.image_size},
        "crop_size": {"height": clip.image_size, "width": clip.image_size},
        "resample": 3,
        "image_mean": mean,
        "image_std": std,
    }


def _layers(config: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the numbers of layers of the text and the vision tower."""
    clip = CLIPConfig(**config)
    return clip.text_layers, clip.vision_layers


def _hf_transformer(clip: CLIPConfig, width: int, layers: int, heads: int, mlp_features: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": mlp_features or 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": clip.embed_features,
        "hidden_act": clip.activation,
        "layer_norm_eps": 1e-5,
    }


def _unwrap(entries: Mapping[str, Entry]) -> tuple[Mapping[str, Entry], tuple[str, ...]]:
    """Returns the entries without prefixes that wrappers added, and a description of these prefixes.

    Removes the parts that torch's wrappers insert anywhere in a name, and any prefix that all names share, as in a
    model that is a part of another model.
    """
    cut, parts = dict(entries), set()

    def rename(new: Sequence[str], part: str) -> None:
        nonlocal cut
        # Do not rename if two entries would get the same name.
        if len(set(new)) == len(cut) and new != list(cut):
            cut = dict(zip(new, cut.values(), strict=True))
            parts.add(part)

    for wrapper in ("module", "_orig_mod"):
        rename([re.sub(rf"(^|(?<=\.)){wrapper}\.", "", name) for name in cut], f"{wrapper}.")
    start = ""
    while len(starts := {name.partition(".")[0] for name in cut}) == 1 and all("." in name for name in cut):
        (first,) = starts
        start += f"{first}."
        cut = {name.partition(".")[2]: entry for name, entry in cut.items()}
    if start:
        parts.add(start)
    if "visual.conv1.weight" in cut and "text.positional_embedding" in cut:
        rename([name.removeprefix("text.") for name in cut], "text.")
    try:
        _recognise(cut, "")
    except PretrainedError:
        # Unknown weights are reported under their original names.
        return entries, ()
    return cut, (f"unwrapped: names without {listed(sorted(parts))}",) if parts else ()


def _told(source: Source, make: str, entries: Collection[str], sizes: CLIPConfig) -> tuple[Settings, str]:
    """Returns the settings of the towers that shapes do not reveal, with their origin."""
    if make in ("hbi", "answer"):
        return OPENAI, ""
    theirs = OPEN_CLIP if source.open_clip and (make == "openai" or not source.config) else CONFIG
    if theirs == OPEN_CLIP:
        return open_clip(source.open_clip, sizes, source.where), OPEN_CLIP
    if source.config:
        return hugging_face(source.config, source.preprocessor, sizes, source.where), CONFIG
    if make == "openai" and set(tables.OPENAI_BUFFERS) <= set(entries):
        return OPENAI, "entries that only OpenAI's release has"
    return Settings(), ""


def _recognise(entries: Mapping[str, Entry], where: str) -> tuple[str, str]:
    """Returns the format of the weights, and the prefix of their names if it varies."""
    if any(re.match(r"(clip\.)?visual\.layer\d", name) for name in entries):
        raise PretrainedError(
            f"{where} holds a CLIP with a ResNet for images, which is not supported; use a ViT, such as ViT-B/32"
        )
    if any(name.startswith("vision_model.") for name in entries):
        return "hf", ""
    if "visual.conv1.weight" in entries:
        return "openai", ""
    if "clip.visual.conv1.weight" in entries:
        return "answer" if "classifier.0.weight" in entries else "hbi", ""
    nets = [name.removesuffix("cnn1.weight") for name in entries if name.endswith("cnn1.weight")]
    if len(nets) == 1:
        return "estimator", nets[0]
    raise PretrainedError(
        f"{where} holds no weights known here; wanted a CLIP, an HBI or answer checkpoint, or an estimator; its "
        f"entries are {listed(sorted(entries), most=6)}"
    )


def _rows(make: str, prefix: str, names: Collection[str], levels: Sequence) -> tuple[list[Row], list[str]]:
    """Returns the table of these weights, and the prefixes of the interaction networks in them."""

    def layers(start: str) -> int:
        return tables.count_layers(names, start)

    if make == "hf":
        return tables.hf_clip(layers("text_model.encoder.layers."), layers("vision_model.encoder.layers.")), []
    if make == "openai":
        return tables.openai_clip(layers("transformer.resblocks."), layers("visual.transformer.resblocks.")), []
    if make == "estimator":
        return tables.interaction_net(f"{prefix}Q" in names, prefix), [prefix]
    nets = tables.headers(len(levels))
    towers = layers("clip.transformer.resblocks."), layers("clip.visual.transformer.resblocks.")
    net = tables.interaction_net(f"{nets[0]}Q" in names) if f"{nets[0]}cnn1.weight" in names else []
    frames = layers("transformerClip.resblocks.")
    return tables.published_hbi(levels, *towers, frames, net, make == "answer"), nets


def _account(entries: Collection[str], rows: Sequence[Row], kept: Sequence[str], make: str, where: str) -> None:
    """Raises unless every entry is used, kept or deliberately dropped, and no entry is missing."""
    wanted = [name for row in rows for name in row.theirs]
    dropped: set[str] = set()
    if make == "hf":
        dropped.update(tables.HF_BUFFERS)
    if make == "openai":
        layers = range(tables.count_layers(entries, "transformer.resblocks."))
        dropped.update(tables.OPENAI_BUFFERS, tables.OPEN_CLIP_BUFFERS)
        dropped.update(tables.OPENAI_LAYER_BUFFER.format(layer) for layer in layers)
    problems = []
    if missing := [name for name in wanted if name not in entries]:
        problems.append(f"lacks {listed(missing)}")
    if extra := sorted(set(entries) - set(wanted) - set(kept) - dropped):
        problems.append(f"has {listed(extra)}, of which nothing is known")
    if problems:
        kind, origin = _MAKES[make]
        raise PretrainedError(
            f"{where}, {origin}, {' and '.join(problems)}; it is damaged or of another version: download it again, or "
            f"convert one that holds what {KINDS[kind]} needs"
        )


def _check_norms(entries: Mapping[str, Entry], nets: Sequence[str], where: str) -> None:
    """Raises if a network's batch normalisation has another width than the network."""
    for net in nets:
        if f"{net}cnn1.weight" not in entries:
            continue
        width = entries[f"{net}cnn1.weight"].shape[0]
        for name, make in tables.BATCH_NORM.items():
            got, wanted = entries.get(net + name), make(width).shape
            if got is not None and got.shape != wanted:
                raise PretrainedError(
                    f"{where}: {net}{name} has shape {got.shape}, wanted {wanted} as {net}cnn1.weight has {width} "
                    "features; download it again"
                )


def _ours(rows: Sequence[Row], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Returns our arrays by path, as float32; they are computed when they are read."""
    out = {}
    for row in rows:
        parts = [entries[name] for name in row.theirs]
        for name, part in zip(row.theirs, parts, strict=True):
            if not jnp.issubdtype(part.dtype, jnp.floating):
                raise PretrainedError(f"{name} is {part.dtype}, wanted floating-point numbers; convert another copy")

        def read(row: Row = row, parts: Sequence[Entry] = parts) -> np.ndarray:
            return row.layout.to_ours(*(np.asarray(part.read(), np.float32) for part in parts))

        try:
            shape = row.layout.to_ours(*(_outline(part) for part in parts)).shape
        except ValueError as error:
            shapes = " and ".join(f"{name} {part.shape}" for name, part in zip(row.theirs, parts, strict=True))
            raise PretrainedError(f"shape of {shapes}: no such shape makes our {row.ours} ({error})") from error
        out[row.ours] = Entry(shape, np.dtype(np.float32), read)
    return out


def _theirs(rows: Sequence[Row], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Returns the foreign arrays by name; they are computed when they are read."""
    out = {}
    for row in rows:
        entry = entries[row.ours]
        for number, (name, outline) in enumerate(zip(row.theirs, row.layout.to_theirs(_outline(entry)), strict=True)):

            def read(row: Row = row, entry: Entry = entry, number: int = number) -> np.ndarray:
                return row.layout.to_theirs(entry.read())[number]

            out[name] = Entry(outline.shape, entry.dtype, read)
    return out


def _outline(entry: Entry) -> np.ndarray:
    """Returns an array with an entry's shape that takes no memory."""
    return np.broadcast_to(np.float32(0), entry.shape)


def _exported(source: Source, kind: str) -> dict:
    """Returns the configuration that our export wrote beside weights of this kind, or an empty one."""
    text = source.metadata.get(METADATA)
    if text is None:
        return {}
    try:
        told, config = described(json.loads(text))
        build_model(told, config)
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{source.where} has a damaged header ({error}); export it again") from error
    if told != kind:
        raise PretrainedError(f"{source.where} says that it is {told!r} but holds {KINDS[kind]}; export it again")
    return config
