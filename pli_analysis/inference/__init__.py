"""A checkpoint's model, and the tokens that it is evaluated on."""
