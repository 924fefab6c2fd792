"""Where everything lies, on a disk or in a bucket: files written whole or not at all, checkpoints, folders for a while.

Imports errors alone.
"""
