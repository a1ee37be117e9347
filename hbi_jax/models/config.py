"""Configuration fields of the models: `config.model`, `config.model.clip` and caption decoding."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

from hbi_jax.choices import (
    Activation,
    AttentionKernel,
    DecodingMethod,
    EndTokens,
    FramePositions,
    InteractionNetKind,
    Method,
    Padding,
    Pixels,
    Remat,
    Scan,
)
from hbi_jax.fields import field, require, section


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Sizes of the two towers; the default is ViT-B/32."""

    image_size: int = field(224, "Side of the square frames, in pixels; a multiple of patch_size.", at_least=1)
    patch_size: int = field(32, "Side of a square patch, in pixels.", at_least=1)
    vision_width: int = field(768, "Width of the vision tower.", at_least=1)
    vision_layers: int = field(12, "Layers of the vision tower.", at_least=1)
    text_width: int = field(512, "Width of the text tower.", at_least=1)
    text_layers: int = field(12, "Layers of the text tower.", at_least=1)
    embed_features: int = field(
        512, "Width of the joint space: words, frames and everything after the towers.", at_least=1
    )
    head_features: int = field(
        64, "Width of one attention head in the joint space; must divide embed_features.", at_least=1
    )
    vocab_size: int = field(
        49408, "Tokens of the vocabulary; the last two are the start and end of a text.", at_least=1
    )
    context_length: int = field(77, "Maximum length of a text in tokens, including start and end token.", at_least=3)
    activation: Activation = field(
        "quick_gelu",
        "Activation of the MLPs: quick_gelu (OpenAI, DFN, MetaCLIP) or gelu (LAION, DataComp; docs/pretrained.md).",
    )
    vision_head_features: int = field(
        0, "Width of one attention head of the vision tower; must divide vision_width. 0: head_features.", at_least=0
    )
    text_head_features: int = field(
        0, "Width of one attention head of the text tower; must divide text_width. 0: head_features.", at_least=0
    )
    vision_mlp_features: int = field(
        0, "Hidden width of the vision tower's MLPs; 0: four times the tower's width.", at_least=0
    )
    text_mlp_features: int = field(
        0, "Hidden width of the text tower's MLPs; 0: four times the tower's width.", at_least=0
    )
    pixels: Pixels = field(
        "clip",
        "Pixel normalisation. clip: by mean and standard deviation of CLIP's training images. half: to -1..1.",
    )

    @property
    def vision_heads(self) -> int:
        """The number of attention heads of the vision tower."""
        return self.vision_width // (self.vision_head_features or self.head_features)

    @property
    def text_heads(self) -> int:
        """The number of attention heads of the text tower."""
        return self.text_width // (self.text_head_features or self.head_features)

    @property
    def joint_heads(self) -> int:
        """The number of attention heads in the joint space."""
        return self.embed_features // self.head_features

    def validate(self, path: str) -> None:
        """Checks that patches tile a frame and that head widths divide the tower widths."""
        nearest = max(1, round(self.image_size / self.patch_size)) * self.patch_size
        wanted = f"a multiple of {path}.patch_size={self.patch_size}"
        tiles = self.image_size % self.patch_size == 0
        require(tiles, f"{path}.image_size", self.image_size, wanted, f"use {nearest}")
        for name, own in (
            ("vision_width", "vision_head_features"),
            ("text_width", "text_head_features"),
            ("embed_features", "head_features"),
        ):
            heads = own if getattr(self, own) else "head_features"
            width, head = getattr(self, name), getattr(self, heads)
            wanted = f"a multiple of {path}.{heads}={head}"
            require(width % head == 0, f"{path}.{name}", width, wanted, "change one of them")


class Level(NamedTuple):
    """A level of semantic granularity.

    Attributes:
      name: `entity`, `action`, `event`, or any other.
      words, frames: Number of tokens after the merge; 0 keeps the previous level's tokens.
    """

    name: str
    words: int = 0
    frames: int = 0


@dataclasses.dataclass(frozen=True)
class HBIConfig:
    """The architecture of an HBI or HCMI model."""

    method: Method = field(
        "hbi",
        "The model. hbi: tokens are clustered from level to level (HBI, and with reconstruction HBI V2). hcmi: learned "
        "queries re-organise them (docs/hcmi.md); for task=retrieval.",
    )
    clip: CLIPConfig = section(CLIPConfig, "Sizes of the two towers.")
    levels: tuple[Level, ...] = field(
        (Level("entity"), Level("action", 16, 6), Level("event", 4, 2)),
        "Levels from fine to coarse: name, and the number of words and frames after the merge (0: no merge). By "
        "default, the first level is distilled into the others.",
    )
    end_tokens: EndTokens = field(
        "both",
        "Which of the two tokens that enclose a text are players beside its words. both: as in the published code; the "
        "end token has seen the whole text, so it can match the video in place of all words. start: the start token "
        "alone, which has seen nothing; frames that no word speaks of can match it. none: neither.",
    )
    frame_layers: int = field(4, "Layers of the temporal transformer over frames.", at_least=0)
    frame_window: int = field(
        0,
        "Frames before and after a frame that it attends to in each layer of the temporal transformer; 0: all, as in "
        "the papers.",
        at_least=0,
    )
    frame_past: int = field(
        0,
        "How many frames before it a frame of the first level attends to in each layer of the temporal transformer, so "
        "that it has seen nothing that follows. Merged levels are made of frames that attend as frame_window says, "
        "which the transformer computes as well. 0: the first level uses these frames too, as in the papers.",
        at_least=0,
    )
    frame_positions: FramePositions = field(
        "absolute",
        "How the temporal transformer knows the order of frames. absolute: an embedding of each frame's place in the "
        "video, as in the papers. relative: a bias of attention for each distance, so that a frame means the same "
        "wherever it is.",
    )
    max_frames: int = field(77, "Positions of the temporal transformer; at least data.num_frames.")
    weight_features: int = field(
        1024,
        "Hidden width of the token-weight MLPs: 128 in HBI V2, twice embed_features in V1. 0: all real tokens have the "
        "same weight.",
        at_least=0,
    )
    reconstruction: bool = field(False, "Reconstruct the tokens of every text-video pair (HBI V2).")
    gate_features: int = field(128, "Hidden width of the gates of the reconstruction.", at_least=1)
    gate_bound: float = field(
        0.0, "Largest distance of the gates of the reconstruction from 1; 0: no bound, as in the paper.", at_least=0
    )
    pooled: bool = field(
        False, "The mean-pooling baseline: every level sees one token per side, the sentence vector and the mean frame."
    )
    initial_logit_scale: float = field(
        1 / 0.07, "Initial inverse temperature of the contrastive loss, unless weights are loaded.", above=0
    )
    merge_heads: int = field(8, "Attention heads of a token merge; must divide clip.embed_features.", at_least=1)
    aggregation_layers: int = field(
        1, "HCMI: layers of self-attention before each aggregation of tokens. Not published; ours.", at_least=0
    )
    padding: Padding = field(
        "masked",
        "How padding is treated. masked: padding has no effect. published: as in the first paper's code, padding "
        "enters maxima and header as cells of similarity 0 and takes part in the merges, and every merged token "
        "counts as real (docs/differences.md).",
    )
    header: InteractionNetKind = field(
        "cnn_sa", "The prediction header (Table V). none: the raw similarity is compared with the interaction."
    )
    header_features: int = field(64, "Width of the prediction header.", at_least=1)
    remat: Remat = field(
        "auto",
        "What the backward pass of the transformers recomputes to save memory. none: nothing. elementwise: everything "
        "except the products with kernels. blocks: everything, at the cost of one more forward pass. auto: elementwise "
        "if the layers are a loop (scan_layers), else none.",
    )
    matmul_precision: Literal["default", "high", "highest"] = field(
        "default",
        "Precision of the encoders' products where dtype is float32. default: that of JAX, with which accelerators "
        "round the factors, TPUs to bfloat16 and GPUs to 10 bits; highest: exact to float32. Similarities and "
        "interactions always are.",
    )
    scan_layers: Scan = field(
        "auto",
        "Whether the layers of a transformer are one loop, which is compiled once. Checkpoints do not depend on it. "
        "auto: on TPUs; on GPUs the loop compiles no sooner, and spends time on stacking what the backward pass needs.",
    )
    attention: AttentionKernel = field(
        "xla",
        "What computes the attention of the vision tower on GPUs. xla: the compiler. cudnn: NVIDIA's fused kernels, "
        "which are faster, store no attention weights and need dtype=bfloat16. Other devices use xla in either case.",
    )
    frame_portions: int = field(
        1,
        "Number of portions in which the vision tower encodes a video's frames, one after the other, recomputing each "
        "in the backward pass; must divide data.num_frames. Use it on CPU, where remat saves no memory because the "
        "compiler undoes it.",
        at_least=1,
    )
    dtype: Literal["float32", "bfloat16"] = field(
        "float32",
        "Type of the activations. Parameters, the softmax over token weights, losses and interaction stay float32.",
    )

    def validate(self, path: str) -> None:
        """Checks the levels, the number of merge heads and mutually exclusive options."""
        names = [level.name for level in self.levels]
        distinct = len(names) > 0 and len(set(names)) == len(names)
        require(distinct, f"{path}.levels", names, "one or more distinct names", "rename them")
        width, heads = self.clip.embed_features, self.merge_heads
        wanted = f"a divisor of {path}.clip.embed_features={width}"
        require(width % heads == 0, f"{path}.merge_heads", heads, wanted, "change one of them")
        if self.attention == "cudnn":
            wanted, remedy = f"xla if {path}.dtype={self.dtype!r}", f"set {path}.dtype='bfloat16', or keep the default"
            require(self.dtype == "bfloat16", f"{path}.attention", self.attention, wanted, remedy)
            head = self.clip.vision_width // self.clip.vision_heads
            wanted, remedy = (
                f"xla for heads of {head} features",
                "cuDNN wants multiples of 8 up to 128; keep the default",
            )
            require(head % 8 == 0 and head <= 128, f"{path}.attention", self.attention, wanted, remedy)
        good = self.frame_layers > 0 or self.frame_positions == "absolute"
        remedy = f"distances are between frames that attend to one another; raise it, or keep {path}.frame_positions"
        require(good, f"{path}.frame_layers", self.frame_layers, "1 or more if positions are relative", remedy)
        for name, excluded in (("pooled", self.pooled), ("padding", self.padding == "published")):
            remedy = f"reconstruction needs masked padding and several tokens; turn {path}.reconstruction off"
            good = not (self.reconstruction and excluded)
            require(good, f"{path}.{name}", getattr(self, name), "another", remedy)
        for name, excluded in (("reconstruction", self.reconstruction), ("padding", self.padding == "published")):
            remedy = f"it is a part of HBI; keep the default or set {path}.method='hbi'"
            good = not (self.method == "hcmi" and excluded)
            require(good, f"{path}.{name}", getattr(self, name), f"the default if {path}.method='hcmi'", remedy)


def of_earlier_versions(values: Mapping[str, object]) -> dict[str, object]:
    """Returns stored fields of `config.model` with the values that mean today what they meant when they were stored."""
    if isinstance(ends := values.get("end_tokens"), bool):
        # Whether both ends are players.
        return {**values, "end_tokens": "both" if ends else "none"}
    return dict(values)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How captions are generated."""

    method: DecodingMethod = field(
        "beam",
        "Decoding method. greedy: take the most likely token at each step. beam: beam search with num_beams beams. "
        "sample: sample the tokens.",
    )
    max_words: int = field(
        30,
        "Maximum number of tokens of a generated caption, including start and end token; at most data.num_words. "
        "Longer captions are truncated.",
        at_least=2,
    )
    num_beams: int = field(5, "Number of captions that beam search keeps.", at_least=1)
    length_penalty: float = field(
        1.0,
        "Beam search scores a caption of n generated tokens, including the end token, by log p / n^length_penalty: 0 "
        "prefers short captions, 1 compares means over tokens.",
        at_least=0,
    )
    num_samples: int = field(1, "Number of captions sampled for each video.", at_least=1)
    temperature: float = field(1.0, "Divides the logits before sampling.", above=0)
    top_k: int = field(0, "Sample only from this many most likely tokens; 0: from all tokens.", at_least=0)
    top_p: float = field(
        1.0, "Sample from the smallest set of most likely tokens with this total probability.", above=0, share=True
    )

    @property
    def num_captions(self) -> int:
        """The number of captions per video."""
        return {"greedy": 1, "beam": self.num_beams, "sample": self.num_samples}[self.method]
