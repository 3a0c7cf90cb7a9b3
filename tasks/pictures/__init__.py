"""Parts of pictures for people: colours of classes, sheets with captions and legends, panels of curves."""
