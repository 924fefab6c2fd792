"""Which trials run, and how long: the sampler and early stopping, both without Ray and rebuilt from the events.

Imports spec and events. Optuna is imported by sampler.py and optuna_study.py.
"""
