"""What both packages share: identity, anatomy, the run format, the command-line shell. No torch, no pandas."""
