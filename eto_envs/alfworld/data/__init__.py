"""ALFWorld's data: official game files, packs and datasets."""
