"""Training samples: windows, genes, masks, sample units and the data modules."""
