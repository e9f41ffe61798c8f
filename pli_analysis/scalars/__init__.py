"""Logged scalars: TensorBoard event files, downloads, the Trainer's log."""
