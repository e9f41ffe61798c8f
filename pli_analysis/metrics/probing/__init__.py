"""Linear probes of the outputs of layers."""
