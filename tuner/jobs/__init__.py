"""Studies that run as jobs of a Ray cluster: submitted, watched, stopped and fetched from another machine.

Imports storage and errors. It uses Ray's job API, and Ray's launcher for the SSH tunnel.
"""
