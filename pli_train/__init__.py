"""Train any Hugging Face transformer while it grows, and remember who each layer and head is."""
