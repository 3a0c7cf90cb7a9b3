"""Boxes of CamVid's cars and pedestrians, from its masks, in COCO's form: each connected component is one.

Parts of an object behind a pole are several boxes, and objects that touch are one: AP on them compares detectors with
each other alone. Components of few px are marked as crowds, which are neither learnt nor counted.
"""

from pathlib import Path

import cv2
import numpy as np

from tasks.files.writing import write_json

CLASSES = {"car": 8, "pedestrian": 9}  # ids in the masks
LEAST = 300  # px of a component that counts


def write_camvid_boxes(source: Path, folder: Path) -> None:
    """Write instances_train.json and instances_val.json for the images of CamVid's folder."""
    for split in ("train", "val"):
        images, annotations = [], []
        for path in sorted((source / f"{split}annot").glob("*.png")):
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            height, width = mask.shape
            images.append({"id": len(images) + 1, "file_name": path.name, "height": height, "width": width})
            for category, value in enumerate(CLASSES.values(), 1):
                _, _, found, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
                for x, y, w, h, area in found[1:].tolist():  # the first is the background
                    annotations.append({
                        "id": len(annotations) + 1, "image_id": images[-1]["id"], "category_id": category,
                        "bbox": [x, y, w, h], "area": area, "iscrowd": int(area < LEAST),
                    })  # fmt: skip
        categories = [{"id": at, "name": name} for at, name in enumerate(CLASSES, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / f"instances_{split}.json", content)
