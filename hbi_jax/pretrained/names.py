"""Names of weights: of their kinds, files and settings. It loads no array library, so --help need not wait."""

from typing import get_args

from hbi_jax.choices import Activation, Pixels

KINDS = {
    "clip": "CLIP",
    "hbi": "HBI (retrieval)",
    "hcmi": "HCMI (retrieval)",
    "answer": "HBI with an answer head",
    "caption": "HBI with a caption decoder",
    "estimator": "estimator of the interaction",
}
# Words (including start and end) and frames that the published models were trained with.
TOKENS = {"hbi": (24, 12), "answer": (32, 12)}

# Our files of weights: those of a folder, and those that an export adds for the published code.
WEIGHTS, PUBLISHED = "model.safetensors", "hbi.safetensors"
# The files that hold the settings: Hugging Face's, its preprocessor's, and open_clip's.
CONFIG, PREPROCESSOR, OPEN_CLIP = "config.json", "preprocessor_config.json", "open_clip_config.json"

ACTIVATIONS, NORMALIZATIONS = get_args(Activation), get_args(Pixels)
