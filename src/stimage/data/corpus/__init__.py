"""Corpora: slides in memory or in a folder, their index, their parts."""
