"""Data sets: `datamodule.VisionDataModule` is what every one is; a file a format, samplers, loaders."""
