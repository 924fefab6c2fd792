"""The command line, `python -m fcn COMMAND`: a file for each command."""
