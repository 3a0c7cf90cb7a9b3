"""Train: `fit.fit` runs the training that a configuration describes, resumes it, logs, and keeps checkpoints."""
