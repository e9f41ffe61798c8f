"""Runs and checkpoints on disk, ours and other people's."""
