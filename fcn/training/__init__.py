"""A run: epochs, steps, the optimizer, its folder, and what is carried from one epoch to the next."""
