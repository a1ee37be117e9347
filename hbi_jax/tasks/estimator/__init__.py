"""The task estimator: training a network that estimates the interaction."""
