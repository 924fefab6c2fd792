"""What happened in a study: the event log, the state derived from it, and which process owns a study in a bucket.

Imports spec and storage.
"""
