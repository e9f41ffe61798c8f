"""Growth: which operators exist, when they act, and how newborn parts start."""
