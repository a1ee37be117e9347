"""Evaluators, one a task, and the report that they share."""
