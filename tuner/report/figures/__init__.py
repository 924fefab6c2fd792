"""The figures of a report: plotly's where Optuna has none, each with what it shows in words."""
