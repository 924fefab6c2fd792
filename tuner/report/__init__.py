"""`python -m tuner report`: a study, or several of one objective, as one HTML file that needs no network.

Reads a study's tables (results) and Optuna's figures (search), and writes one page. Never imports Ray, torch or MLflow.
"""

REPORT = "report.html"
"""The report's file name in a study's folder."""
