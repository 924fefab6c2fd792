"""The results of a study as pandas tables: for notebooks (tuner.load), `show --csv | --parquet` and the report.

Reads the storage and never writes it. Imports display, which finds studies, and the rooms below; never Ray, torch or
MLflow.
"""
