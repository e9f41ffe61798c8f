"""Checkpoints: snapshot, background writer, retention, disk use, lock."""
