"""The mini games: generated households, which need no download."""
