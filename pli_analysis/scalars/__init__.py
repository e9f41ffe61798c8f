"""Logged scalars: TensorBoard event files and downloads, CSV and JSON Lines logs, HF Trainer's log."""
