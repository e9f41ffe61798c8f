"""AdamW over a growing model: parameter groups, step counts, learning rates by birth, gradient norms."""
