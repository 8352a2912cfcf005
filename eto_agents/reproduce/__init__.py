"""Reproducing the paper's tables with one command: recipes, their runs and the resulting tables."""
