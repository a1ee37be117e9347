"""A tiny CLIP as open_clip builds it, and the script that recorded what it computes: open_clip_tiny.npz.

With torch 2.13.0 and open_clip_torch 3.3.0: python -m tests.golden.open_clip_tiny
Heads, their widths and the MLPs differ between the towers, as in ViT-H/14 and ViT-g/14.
"""

import pathlib

import numpy as np

from tests.golden.recipe import normal_like, parameter

SEED = 21
PATH = pathlib.Path(__file__).with_suffix(".npz")
# The `model_cfg` of an open_clip_config.json.
MODEL = {
    "embed_dim": 48,
    "vision_cfg": {
        "image_size": 16,
        "layers": 2,
        "width": 96,
        "head_width": 24,
        "mlp_ratio": 4.3637,
        "patch_size": 8,
    },
    "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 64, "heads": 4, "layers": 2},
}
END = MODEL["text_cfg"]["vocab_size"] - 1  # the largest token id: end of text


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Token ids, padded with 0, and normalised images of shape (b, h, w, 3)."""
    ids = np.abs(normal_like("ids", (3, 12), SEED) * 20).astype(np.int64) % (END - 1) + 1
    lengths = np.array([12, 7, 3])
    ids = np.where(np.arange(12) < lengths[:, None], ids, 0)
    ids[np.arange(3), lengths - 1] = END
    return ids, normal_like("images", (2, 16, 16, 3), SEED).astype(np.float32)


def state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The parameters: 1.5 times those of the recipe, so that the activations differ visibly."""
    return {
        name: np.asarray(parameter(name, shape, SEED) * (1.0 if name == "logit_scale" else 1.5), np.float32)
        for name, shape in shapes.items()
    }


def main() -> None:
    """Writes the file."""
    import torch
    from open_clip.model import CLIP

    ids, images = inputs()
    out = {}
    for name, quick_gelu in (("quick_gelu", True), ("gelu", False)):
        model = CLIP(**MODEL, quick_gelu=quick_gelu).eval()
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        state = {key: torch.from_numpy(np.array(value)) for key, value in state_dict(shapes).items()}
        model.load_state_dict(state)
        with torch.no_grad():
            out[f"{name}/text"] = model.encode_text(torch.from_numpy(ids)).numpy()
            out[f"{name}/image"] = model.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    names = sorted(shapes)
    out["names"] = np.array(names)
    out["shapes"] = np.array([" ".join(map(str, shapes[name])) for name in names])
    np.savez_compressed(PATH, **out)


if __name__ == "__main__":
    main()
