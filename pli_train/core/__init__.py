"""What both packages share: lineage, anatomy, the run format, the command line."""
