"""ALFWorld (text) in process: the games and texts of the original, without TextWorld."""
