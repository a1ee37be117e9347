"""Linen modules: CLIP's towers, the temporal transformer, the token merge, similarity and HBI."""
