"""The run: `fit.fit` trains what a configuration describes, resumes, logs, and keeps the checkpoints."""
