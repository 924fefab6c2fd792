"""Where a study's files are, on a disk or in a bucket: atomic writes, checkpoints, and temporary folders.

Imports errors alone.
"""
