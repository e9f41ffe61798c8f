"""Read training runs, and say what growth did to them."""
