"""WebShop through a real browser."""
