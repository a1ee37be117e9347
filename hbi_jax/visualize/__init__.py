"""Pictures: curves of a run, interaction of words and frames."""
