"""Weights for backbones and heads: `loading.load_weights` reads files and published weights, in others' namings too."""
