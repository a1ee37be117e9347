"""Choices shared by functions and configuration fields, each declared once.

This module imports no array package, so that configurations can be declared and explained without loading JAX.
"""

from typing import Literal

# The model: HBI (with or without the reconstruction of V2) or HCMI. They differ in how the tokens of a level become
# those of the next: by clusters or by learned queries.
Method = Literal["hbi", "hcmi"]
# The network that predicts an interaction from a similarity (Table V): multilayer perceptron or convolutions, with or
# without self-attention (`sa`). `none` leaves the similarity as it is, which an estimator cannot use.
InteractionNetKind = Literal["none", "mlp", "cnn", "mlp_sa", "cnn_sa"]
EstimatorKind = Literal["mlp", "cnn", "mlp_sa", "cnn_sa"]
# Treatment of padding. masked: padding is ignored everywhere. published: as in the code of the first paper, padding is
# a cell of similarity 0 in maxima and header, enters the merges, and every merged token counts (docs/differences.md).
Padding = Literal["masked", "published"]
# Form of the divergences of interaction and distillation (docs/differences.md).
Divergence = Literal["paper", "published"]
# What the backward pass recomputes to save memory. elementwise: all but the products with kernels. blocks: everything,
# at the cost of one more forward pass. auto: elementwise if the layers are a loop, else none.
Remat = Literal["auto", "none", "elementwise", "blocks"]
# Whether the layers of a transformer are one loop, which is compiled once. auto: on TPUs.
Scan = Literal["auto", "on", "off"]
# What computes the attention of the vision tower on GPUs: the compiler, or the fused kernels of NVIDIA's cuDNN.
AttentionKernel = Literal["xla", "cudnn"]
# Which of the two tokens that enclose a text are players beside its words.
EndTokens = Literal["both", "start", "none"]
# How the temporal transformer knows the order of frames: by an embedding of each frame's place in the video, or by a
# bias of attention for each distance.
FramePositions = Literal["absolute", "relative"]
# Decoding methods of captions.
DecodingMethod = Literal["greedy", "beam", "sample"]
# What the MLPs of a CLIP compute: its approximation of GELU (OpenAI, DFN, MetaCLIP) or the exact GELU (LAION,
# DataComp).
Activation = Literal["quick_gelu", "gelu"]
# How pixels are normalised. clip: by mean and standard deviation of CLIP's training images. half: to -1..1.
Pixels = Literal["clip", "half"]
