"""Find, read and write files: images, masks, videos, lists, JSON; report what 8-bit RGB loses of an image."""
