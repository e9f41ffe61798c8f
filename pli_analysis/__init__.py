"""Read training runs, and measure what growth did to them."""
