"""How single values are read from settings and written in messages: sizes, whole numbers, counts."""
