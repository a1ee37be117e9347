"""Search in one's own videos: an index of clips, an exact scan, moments, and pages that show why they match.

index = hbi_jax.open_index("my.index", checkpoint="runs/quickstart")
index.add("videos")
moments = index.search("a red square slides left", top=10)
"""
