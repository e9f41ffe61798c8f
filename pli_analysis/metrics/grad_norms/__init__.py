"""Gradient norms by part: as logged, and recomputed at checkpoints."""
