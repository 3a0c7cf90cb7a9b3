"""Reading and writing files: pictures, masks, videos, JSON; what a decoder would lose is told."""
