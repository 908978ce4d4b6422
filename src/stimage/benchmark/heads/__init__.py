"""Classifiers that read domains off embeddings."""
