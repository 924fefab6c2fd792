"""Drawn streets: a street's properties, its ground, and frames of it. Imports only numpy and Pillow."""
