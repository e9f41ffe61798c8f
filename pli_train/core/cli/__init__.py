"""What both commands share: the app and its errors, output on stderr, tables on stdout."""
