"""The task captions: describing videos in words."""
