"""Training methods: functions that turn a checkpoint and trajectories into a new checkpoint."""
