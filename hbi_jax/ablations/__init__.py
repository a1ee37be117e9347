"""Tables of ablations: several seeds of several models, run, gathered and drawn."""
