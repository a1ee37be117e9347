"""Task estimator: train a network that imitates the interaction."""
