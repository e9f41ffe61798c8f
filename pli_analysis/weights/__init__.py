"""Weights read at reading speed: tensors through all checkpoints, sums over their parts, kept by content."""
