"""Metrics of domains, one to a file: arrays in, a number out. ``_registry`` lists them."""
