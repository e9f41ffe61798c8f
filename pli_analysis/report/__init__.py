"""Reports: sections of text, figures and tables, as an HTML page or in the terminal."""
