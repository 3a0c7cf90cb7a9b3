"""Transforms of images with their masks and boxes: augmentation, resizing, outlines drawn and traced."""
