"""Task captions: say what happens in a video."""
