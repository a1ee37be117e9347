"""The one trainer: state, optimizer, step, checkpoints, loop."""
