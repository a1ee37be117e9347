"""Devices: the mesh, the sharding of parameters and batches, and the transfer of batches."""
