"""Measure networks: `benchmark` times them in every runtime, `store` keeps the rows, `sweep` compares backbones."""
