"""Drift: distance of each part from its birth weights, path length, speed."""
