"""Experiment trackers that a run logs to beside metrics.csv: `logger=mlflow`, one package a file."""
