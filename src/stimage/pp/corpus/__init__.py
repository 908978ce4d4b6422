"""Corpora built from many files."""
