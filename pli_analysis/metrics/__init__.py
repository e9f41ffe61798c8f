"""Metrics: each file is one, a function from a Run to a tidy table (one observation a row)."""
