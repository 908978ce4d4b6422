"""The compact grid: a site in a raster for every observation."""
