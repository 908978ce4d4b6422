"""Slides: expression, raster and vocabulary, and what is computed of one slide."""
