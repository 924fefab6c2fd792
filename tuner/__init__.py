"""A tuning platform on Ray: study files in, compared runs and a checked winner out."""

__version__ = "0.1.0"
