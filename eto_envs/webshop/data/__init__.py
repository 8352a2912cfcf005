"""WebShop's data: official files, bundles, products, goals and prices."""
