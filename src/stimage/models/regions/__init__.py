"""Filling in: hidden regions, holes, and bounds of what is predicted."""
