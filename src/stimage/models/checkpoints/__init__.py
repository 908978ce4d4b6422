"""Models in files: written, read, checked and shared."""
