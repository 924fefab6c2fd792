"""What happened in a study: the log of events, the state that they add up to, and whose study it is in a bucket.

Imports spec and storage.
"""
