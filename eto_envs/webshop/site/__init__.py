"""WebShop as web pages, for people and for agents that drive a browser."""
