"""The paper's tables from one command: recipes, their runs and the tables of them."""
