"""Evaluating agents: playing whole task sets, results and statistics."""
