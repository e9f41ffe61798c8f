"""Code shared by both packages: lineage, anatomy, run format, command line, text files."""
