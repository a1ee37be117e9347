"""The trainer that all tasks share: state, optimizer, step, checkpoints, loop."""
