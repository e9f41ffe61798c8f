"""Read weights fast: tensors over all checkpoints, sums over parts, cached by content."""
