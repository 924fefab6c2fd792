"""What a person sees: the live table of a study that runs, and `show` and `list` of one that does not.

Imports spec, events, storage, and of tracking what it has noted down.
"""
