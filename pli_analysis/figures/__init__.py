"""Figures: each file is one kind, from a tidy table to a plotly figure. No torch, and no reading of runs."""
