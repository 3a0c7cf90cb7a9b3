"""Functions that a generated run.py is put together from: NumPy, Pillow and the runtime alone, each by its source."""
