"""Drawn streets: what a street is, its ground, and a frame of it. Needs numpy and Pillow alone."""
