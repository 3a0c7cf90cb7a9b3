"""Transforms of images with their masks and boxes: augmentation, resizing, outlines drawn and traced.

Those of classification decode files, too, and stand with its data: `tasks.data.classification_transforms`, and
`center_view`.
"""
