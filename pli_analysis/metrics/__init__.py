"""Metrics: a folder per question; each function turns a run into a table."""
