"""WebShop's rules: what actions do, what pages say, and the reward."""
