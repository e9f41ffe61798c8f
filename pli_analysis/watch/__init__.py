"""A run looked at while it trains: in the terminal, and as a page that is served."""
