"""Task answers: choose the answer to a question about a video."""
