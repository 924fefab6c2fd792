"""What a study is: the study file, its search space, and the workload that it names; checked before anything runs.

Imports errors alone. Optuna is imported by space.py.
"""
