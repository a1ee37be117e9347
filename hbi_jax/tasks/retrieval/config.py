"""What task=retrieval can select checkpoints by."""

BEST_METRICS = (*(f"{way}/R@{rank}" for way in ("t2v", "v2t") for rank in (1, 5, 10, 50)), "Rsum")
