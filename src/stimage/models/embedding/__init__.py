"""Embeddings: tiles of a slide, vectors of its sites, and what is made of them."""
