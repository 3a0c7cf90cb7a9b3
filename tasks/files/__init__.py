"""Read and write files: images, masks, videos, JSON; report what 8-bit RGB loses of an image."""
