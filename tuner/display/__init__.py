"""What the user sees: the live table of a running study, and the output of `show` and `list`.

Imports spec, events, storage, and the state that tracking has stored.
"""
