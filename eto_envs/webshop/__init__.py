"""WebShop in process: engine, search and data, without a server, a JVM or a browser."""
