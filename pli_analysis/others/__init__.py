"""Checkpoints that others wrote: found, read as a run is, their lineage inferred from weights."""
