"""Command-line code shared by both programs: the app and its errors, output on stderr, tables on stdout."""
