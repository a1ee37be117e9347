"""Ablation tables: run several models with several seeds, collect their results and plot them."""
