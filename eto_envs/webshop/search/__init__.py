"""WebShop's search: the ranking of Lucene, without Java."""
