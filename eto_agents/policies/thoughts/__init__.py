"""What an expert thinks, world by world: sentences made from what it was told, saw and does."""
