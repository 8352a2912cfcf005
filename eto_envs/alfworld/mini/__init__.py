"""The mini games: generated households, which require no download."""
