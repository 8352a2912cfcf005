"""Sharing runs and checkpoints on the Hugging Face hub."""
