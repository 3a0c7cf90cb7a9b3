"""Layers and blocks of the backbones, and `fusion.fuse_model`, which merges them for inference."""
