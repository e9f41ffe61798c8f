"""Follow a run while it trains, in the terminal or as a served page."""
