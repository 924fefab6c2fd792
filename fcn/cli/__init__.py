"""The command line: `python -m fcn COMMAND`, one file a command."""
