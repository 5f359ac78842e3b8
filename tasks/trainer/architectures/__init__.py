"""Model classes of our own, for architectures that transformers does not have."""
