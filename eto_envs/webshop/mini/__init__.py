"""The mini dataset: a generated shop, which requires no download."""
