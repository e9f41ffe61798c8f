"""Comparison of runs: loss curves, speed-up, intervals over seeds."""
