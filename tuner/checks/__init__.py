"""Checks of a Ray and of its nodes, before a study uses them.

Nothing here imports the driver.
"""
