"""How a generated run.py tells and draws what it found; `picture` is Pillow's, and `classes` are the manifest's."""

import json

import numpy as np
from PIL import Image, ImageDraw


def show_scores(picture, probabilities, classes):
    """Print the five likeliest classes, and write them over the picture."""
    best = np.argsort(-probabilities)[:5]
    told = {classes["names"][label]: round(float(probabilities[label]), 6) for label in best}
    print(json.dumps(told))
    ImageDraw.Draw(picture).text((4, 4), "\n".join(f"{name} {share:.1%}" for name, share in told.items()), (255, 0, 0))
    return picture


def show_mask(picture, mask, classes):
    """Print each class's share of the pixels, and lay the classes' colours over the picture."""
    present, counts = np.unique(mask, return_counts=True)
    told = {classes["names"][label]: round(count / mask.size, 4) for label, count in zip(present, counts, strict=True)}
    print(json.dumps(told))
    colors = Image.fromarray(np.array(classes["palette"], np.uint8)[mask])
    return Image.blend(picture, colors, 0.5)


def show_boxes(picture, found, classes):
    """Print a line for each box that its class shows (its threshold, else 0.3), and draw it."""
    least, pen = classes.get("thresholds") or [None] * len(classes["names"]), ImageDraw.Draw(picture)
    for box, score, label in zip(*found, strict=True):
        if score >= (0.3 if least[label] is None else least[label]):
            name, color, corners = classes["names"][label], tuple(classes["palette"][label]), box.round(2).tolist()
            print(json.dumps({"class": name, "score": round(float(score), 5), "xyxy": corners}))
            pen.rectangle(corners, outline=color, width=2)
            pen.text((corners[0] + 3, corners[1] + 1), f"{name} {score:.2f}", color)
    return picture
