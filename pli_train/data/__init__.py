"""From documents to batches: tokenization, blocks, masking, prefetching, held-out text."""
