"""Classification: `task.ClassificationTask`, mixing of images, scores, pictures and exported form."""
