"""Loss without single parts: masked heads and FFNs; skipped, swapped and replaced layers."""
