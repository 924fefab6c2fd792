"""The only writer to MLflow, in a process of its own that follows the events.

Imports spec, events and storage. mlflow is imported by runs.py, batch.py and calls.py.
"""
