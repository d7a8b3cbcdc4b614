"""Training: the tuner, its trainers, and the number of steps of a cell."""
