"""What backbones are built of: layers, convolutions with branches, and `fusion.fuse_model`, which merges these."""
