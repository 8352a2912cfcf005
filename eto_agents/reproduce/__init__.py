"""The paper's tables from one command: tiers, stages, tables and plans."""
