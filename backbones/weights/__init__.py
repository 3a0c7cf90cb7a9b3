"""Weights for backbones and heads: `loading.load_weights` takes files, names of sources, and namings of others."""
