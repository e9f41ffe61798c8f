"""Read runs and checkpoints, from `pli-train` and from other tools."""
