"""Task retrieval: rank videos by a text, and texts by a video."""
