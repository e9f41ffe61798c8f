"""Figures: each file turns a table into a plotly figure. No torch, and no reading of runs."""
