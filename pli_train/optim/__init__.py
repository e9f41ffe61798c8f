"""AdamW for a growing model: parameter groups, step counts, update scales of new parts, gradient norms."""
