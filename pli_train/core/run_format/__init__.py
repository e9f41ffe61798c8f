"""The run folder: names of files and scalars, reading and writing them."""
