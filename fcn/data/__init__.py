"""Labelled frames: data sets and their readers, splits, the cache of decoded pixels, overlays of masks."""
