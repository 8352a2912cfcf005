"""Trajectories and preference pairs in the files of other programs, both ways."""
