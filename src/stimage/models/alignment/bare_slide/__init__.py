"""Expression of a slide that is nothing but an image."""
