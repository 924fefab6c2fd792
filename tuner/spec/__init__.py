"""The study file, its search space, and the workload that it names: read and checked before anything runs.

Imports errors alone. Optuna is imported by space.py.
"""
