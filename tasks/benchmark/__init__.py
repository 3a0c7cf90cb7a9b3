"""Measurement: `benchmark.benchmark` times networks in every runtime, `store` keeps it, `sweep` compares backbones."""
