"""Detection: `task.DetectionTask`, its losses, its score as COCO defines it, results, pictures and what is exported."""
