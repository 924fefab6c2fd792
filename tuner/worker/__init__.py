"""What runs where trials train: one trial, the worker group of several ranks, and the messages to the driver.

Imports spec and storage.
"""
