"""The command line: `python -m tuner COMMAND`, its commands and the options that they share.

Imports every other room. Only tuner/best.py, a command too, imports it.
"""
