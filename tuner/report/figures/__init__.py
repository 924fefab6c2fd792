"""The figures of a report, from Optuna or made with plotly. Each has a caption that says in words what it shows."""
