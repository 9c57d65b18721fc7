"""A run's trained model outside its trainer: as a folder to take away, and as a sampler whose answers are scored."""
