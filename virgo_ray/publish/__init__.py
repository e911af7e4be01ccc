"""A trained checkpoint, published on the Hugging Face hub."""
