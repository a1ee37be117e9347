"""Tasks: each is one room with its objective, evaluator, metrics, pictures and the class that builds them."""
