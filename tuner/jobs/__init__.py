"""Studies that run as jobs of a Ray cluster: submitted, watched, stopped and fetched from another machine.

Imports storage and errors. Ray's job API does the work; Ray's launcher opens the SSH tunnel.
"""
