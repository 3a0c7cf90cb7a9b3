"""Draw for people: class colours, text, boxes, sheets with captions and legend, panels of curves."""
