from stimage.pp._grid import compact_grid

__all__ = ["compact_grid"]
