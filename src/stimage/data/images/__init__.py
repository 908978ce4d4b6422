"""Histology images: files, pyramids and patches."""
