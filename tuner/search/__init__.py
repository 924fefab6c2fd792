"""Which trials are run, and how far: the sampler and early stopping. Neither knows Ray; both are rebuilt from events.

Imports spec and events. Optuna is imported by sampler.py.
"""
