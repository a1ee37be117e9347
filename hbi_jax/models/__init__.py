"""Networks: CLIP's towers, temporal transformer, token merge, similarity, reconstruction, HBI and its task heads."""
