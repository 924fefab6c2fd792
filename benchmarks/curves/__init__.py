"""Searches compared on public learning curves, in simulated time."""
