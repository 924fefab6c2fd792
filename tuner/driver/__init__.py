"""The driver, which runs a study: decides on reports, places trials in slots, keeps checkpoints, ends hung trials.

Imports every room but cli. Only tune_adapter.py uses Ray Tune's private parts.
"""
