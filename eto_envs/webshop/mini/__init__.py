"""The mini dataset: a shop of our own words, which needs no download."""
