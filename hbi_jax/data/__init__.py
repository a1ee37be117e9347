"""Input data, from files to batches: videos, texts, data sets, the input pipeline and the embedded world."""
