"""Embedders: what turns an image, and where it can a text, into a vector."""
