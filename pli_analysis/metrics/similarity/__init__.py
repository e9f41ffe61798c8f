"""Similarity of layers: CKA, Procrustes, shared nearest neighbors."""
