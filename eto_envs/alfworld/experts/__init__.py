"""Experts for ALFWorld: one that knows everything, one that explores."""
