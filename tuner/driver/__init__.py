"""What runs a study, in one process: decides on messages, places trials on slots, keeps checkpoints, ends what hangs.

Imports every room but cli. Ray Tune's private parts are touched by tune_adapter.py alone.
"""
