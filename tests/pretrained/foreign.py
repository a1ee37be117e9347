"""Files as torch writes them, made without torch, and small weights to put into them."""

import collections
import io
import pathlib
import pickle
import sys
import types
import zipfile
import zlib
from unittest import mock

import numpy as np

from hbi_jax.pretrained import Pretrained
from hbi_jax.pretrained.sizes import abstract_params, shapes_of

CLIP = {
    "image_size": 8,
    "patch_size": 4,
    "vision_width": 64,
    "vision_layers": 2,
    "text_width": 64,
    "text_layers": 2,
    "embed_features": 64,
    "head_features": 64,
    "vocab_size": 40,
    "context_length": 12,
    "activation": "quick_gelu",
    "vision_head_features": 0,
    "text_head_features": 0,
    "vision_mlp_features": 0,
    "text_mlp_features": 0,
    "pixels": "clip",
}
HBI = {
    "clip": CLIP,
    "levels": [["entity", 0, 0], ["action", 6, 3], ["event", 3, 2]],
    "frame_layers": 1,
    "max_frames": 12,
    "weight_features": 16,
    "header": "cnn_sa",
    "header_features": 4,
    "merge_heads": 8,
    "padding": "published",
}
HCMI = {
    **HBI,
    "method": "hcmi",
    "levels": [["frame", 0, 0], ["clip", 3, 2], ["video", 1, 1]],
    "frame_layers": 0,
    "header": "none",
    "padding": "masked",
}
ESTIMATOR = {"kind": "cnn_sa", "num_features": 4}


def random_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that depend on name and shape alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)


def weights(kind: str, config: dict, **others: object) -> Pretrained:
    """Random weights of a configuration."""
    tree: dict = {}
    for path, shape in shapes_of(abstract_params(kind, config)).items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = random_array(path, shape)
    return Pretrained(kind, config, {"params": tree}, **others)


class Storage:
    """Numbers that tensors look at."""

    def __init__(self, numbers: np.ndarray, kind: str = "Float"):
        self.numbers, self.kind = numbers, kind


class Tensor:
    """Pickled as torch pickles a tensor."""

    def __init__(self, storage: Storage, offset: int, shape: tuple, strides: tuple):
        self.parts = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


class Parameter:
    """Pickled as torch pickles a parameter."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_parameter, (self.tensor, True, collections.OrderedDict())


KINDS = {"float32": "Float", "float16": "Half", "float64": "Double", "int64": "Long", "bool": "Bool", "uint8": "Byte"}


def tensor(array: np.ndarray) -> Tensor:
    """A tensor with a storage of its own."""
    array = np.asarray(array)
    strides = [stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides]
    return Tensor(Storage(array.reshape(-1), KINDS[array.dtype.name]), 0, array.shape, tuple(strides))


def _modules() -> dict[str, types.ModuleType]:
    """What pickle looks names up in."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(inner, name, function)
    for kind in (*KINDS.values(), "BFloat16"):
        setattr(torch, f"{kind}Storage", type(f"{kind}Storage", (), {"__module__": "torch"}))
    return {"torch": torch, "torch._utils": inner}


def script_module(name: str, **attributes: object) -> object:
    """An object as TorchScript saves a module: of a class in `__torch__`, with its attributes as state."""
    kind = type(name, (), {"__module__": "__torch__.model"})
    module = kind()
    module.__dict__.update(attributes)
    return module


def dumps(content: object, storages: dict[str, np.ndarray] | None = None, protocol: int = 2) -> bytes:
    """The pickle of a torch file; its storages are added to `storages`."""
    storages = {} if storages is None else storages
    keys: dict[int, str] = {}
    modules = _modules()
    scripted = modules["__torch__.model"] = types.ModuleType("__torch__.model")
    modules["__torch__"] = types.ModuleType("__torch__")

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> tuple | None:
            if type(value).__module__ == "__torch__.model":
                setattr(scripted, type(value).__name__, type(value))
            if not isinstance(value, Storage):
                return None
            key = keys.setdefault(id(value), str(len(keys)))
            storages[key] = value.numbers
            kind = getattr(modules["torch"], f"{value.kind}Storage")
            return "storage", kind, key, "cpu", value.numbers.size

    out = io.BytesIO()
    with mock.patch.dict(sys.modules, modules):
        Pickler(out, protocol).dump(content)
    return out.getvalue()


def write_archive(path: pathlib.Path, content: object, compression: int = zipfile.ZIP_STORED, **extra: bytes) -> None:
    """A file as `torch.save` writes it; `content` may be a ready pickle."""
    storages: dict[str, np.ndarray] = {}
    data = content if isinstance(content, bytes) else dumps(content, storages)
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        for key, numbers in storages.items():
            file.writestr(f"archive/data/{key}", np.ascontiguousarray(numbers).tobytes())
        for name, content in {"version": b"3\n", **extra}.items():
            file.writestr(f"archive/{name}", content)


def write_state(path: pathlib.Path, state: dict[str, np.ndarray]) -> None:
    """A state dict as torch saves it."""
    write_archive(path, collections.OrderedDict((name, tensor(array)) for name, array in state.items()))


def hf_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A CLIP with Hugging Face's names from one with OpenAI's, written down on its own."""
    out = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
    }
    sides = (
        ("text_model", "", {"token_embedding.weight": "token_embedding.weight"}, {"ln_final": "final_layer_norm"}),
        (
            "vision_model",
            "visual.",
            {"conv1.weight": "patch_embedding.weight", "class_embedding": "class_embedding"},
            {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"},
        ),
    )
    for side, prefix, embeddings, norms in sides:
        out[f"{side}.embeddings.position_embedding.weight"] = state[f"{prefix}positional_embedding"]
        for theirs, name in embeddings.items():
            out[f"{side}.embeddings.{name}"] = state[f"{prefix}{theirs}"]
        for theirs, name in norms.items():
            for end in ("weight", "bias"):
                out[f"{side}.{name}.{end}"] = state[f"{prefix}{theirs}.{end}"]
        layer = 0
        while f"{prefix}transformer.resblocks.{layer}.ln_1.weight" in state:
            start, to = f"{prefix}transformer.resblocks.{layer}.", f"{side}.encoder.layers.{layer}."
            for end in ("weight", "bias"):
                thirds = np.split(state[f"{start}attn.in_proj_{end}"], 3)
                for letter, third in zip("qkv", thirds, strict=True):
                    out[f"{to}self_attn.{letter}_proj.{end}"] = third
                for theirs, name in (
                    ("attn.out_proj", "self_attn.out_proj"),
                    ("ln_1", "layer_norm1"),
                    ("ln_2", "layer_norm2"),
                    ("mlp.c_fc", "mlp.fc1"),
                    ("mlp.c_proj", "mlp.fc2"),
                ):
                    out[f"{to}{name}.{end}"] = state[f"{start}{theirs}.{end}"]
            layer += 1
    return out
