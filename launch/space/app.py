"""The page of `hbi_jax.search serve` as a Hugging Face Space: indexes `videos` with `weights`, then serves."""

import os

import hbi_jax
from hbi_jax.search.serve import Settings, serve

VIDEOS, WEIGHTS = os.environ.get("VIDEOS", "videos"), os.environ.get("WEIGHTS", "weights")

if __name__ == "__main__":
    with hbi_jax.open_index(os.environ.get("INDEX", "my.index"), WEIGHTS) as index:
        for reason in index.add(VIDEOS, shown=True).unreadable.values():
            print(f"unreadable: {reason}")
        # A Space is a machine of its own, and its visitors come from others.
        serve(index, Settings(host="0.0.0.0", port=int(os.environ.get("PORT", "7860")), upload_megabytes=50))
