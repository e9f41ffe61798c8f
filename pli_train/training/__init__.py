"""A training run: launch, loop, progress, signals, TensorBoard, run record."""
