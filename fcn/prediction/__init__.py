"""Predictions of an exported network for images, folders and videos."""
