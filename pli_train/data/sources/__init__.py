"""Where documents and images come from: one file per source."""
