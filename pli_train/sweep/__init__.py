"""Search over growth strategies: a study of many runs."""
