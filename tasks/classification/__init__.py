"""Classification: `task.ClassificationTask`, mixing of images, scores, pictures and what is exported."""
