"""Training: stages that turn trajectories into checkpoints. Nothing here is imported by others."""
