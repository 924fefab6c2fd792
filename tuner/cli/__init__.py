"""The command line: `python -m tuner COMMAND`. One file for the commands, one for the options that they share.

Imports every other room; nothing imports it but tuner/best.py, which is a command as well.
"""
