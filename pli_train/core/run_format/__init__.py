"""The run folder: names of files and scalars, and how to read them."""
