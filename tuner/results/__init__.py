"""What a study has shown, as pandas tables: for notebooks (tuner.load), `show --csv | --parquet` and the report.

Reads the storage and never writes it. Imports display, which finds studies, and what lies below; never Ray, torch or
MLflow.
"""
