"""Devices: the mesh, where parameters and rows lie, and how batches get there."""
