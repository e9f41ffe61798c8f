"""Maps of layers over time: PCA, t-SNE, UMAP."""
