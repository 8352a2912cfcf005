"""ALFWorld's rules: games, states, commands and the texts that answer them."""
