"""Segmentation: `task.SegmentationTask`, its loss, mIoU from one confusion matrix, pictures and what is exported."""
