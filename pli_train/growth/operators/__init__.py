"""Growth operators: one file per operator."""
