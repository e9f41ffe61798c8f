"""Compare candidates for each growth event some steps after it, and continue with the best."""
