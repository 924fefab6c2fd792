"""`python -m tuner report`: a study, or several of one objective, as one HTML file that needs no network.

Reads a study's tables (results) and Optuna's figures (search), and writes one page. Imports what lies below; never Ray,
torch or MLflow.
"""

REPORT = "report.html"
"""Its name in a study's folder."""
