"""How the demo scenes are written: as Cityscapes, COCO and ImageNet lay out their images and annotations."""

from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from tasks.demo.painting import paint_portrait, paint_street

# What is painted -> Cityscapes' label id; "sign" is its "traffic sign", and a pole stays "unlabeled".
CITYSCAPES_IDS = {
    "void": 0, "pole": 0, "ego vehicle": 1, "road": 7, "sidewalk": 8, "building": 11, "sign": 20, "vegetation": 21,
    "tree": 21, "sky": 23, "person": 24, "car": 26,
}  # fmt: skip
# COCO's own category ids and supercategories; other signs than stop signs are unlabelled there.
COCO_CATEGORIES = {
    "person": (1, "person"), "car": (3, "vehicle"), "stop sign": (13, "outdoor"), "dog": (18, "animal"),
    "umbrella": (28, "accessory"),
}  # fmt: skip
COCO_IMAGE_SIZES = ((240, 320), (240, 320), (240, 320), (320, 240), (224, 336))  # (H, W) px, in turn
# WordNet's ids of the synsets and their first lemma, which is also what is painted.
IMAGENET_CLASSES = {
    "n00007846": "person", "n02084071": "dog", "n02834778": "bicycle", "n02958343": "car", "n04254680": "soccer ball",
    "n04507155": "umbrella", "n06794110": "street sign", "n06874185": "traffic light",
}  # fmt: skip
IMAGENET_IMAGE_SIZE = (96, 96)


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image[..., ::-1] if image.ndim == 3 else image  # OpenCV writes BGR
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"could not write {path}")


def write_cityscapes(folder: Path, split: str, index: int, generator: Generator, image_size: tuple[int, int]) -> None:
    """Paint and write the scene of a number, with its label map, under leftImg8bit and gtFine."""
    several = (0.05, 0.4, 0.4, 0.15)  # chances of 0, 1, 2 and 3 of them
    chances = {"car": several, "sign": (0.08, 0.6, 0.32), "person": several}
    counts = {"tree": int(generator.integers(0, 3))}
    counts |= {kind: int(generator.choice(len(shares), p=shares)) for kind, shares in chances.items()}
    scene = paint_street(generator, image_size, counts, ego_vehicle=generator.random() < 0.8)
    labels = np.array([CITYSCAPES_IDS[kind] for kind in scene.kinds], np.uint8)[scene.parts]
    name = f"{split}/demo/demo_{index:06d}_000019"
    _write_image(folder / "leftImg8bit" / f"{name}_leftImg8bit.png", scene.image)
    _write_image(folder / "gtFine" / f"{name}_gtFine_labelIds.png", labels)


def imagenet_name(split: str, index: int) -> str:
    """File of the object of a number, relative to the set's folder; the classes take turns."""
    synset = list(IMAGENET_CLASSES)[index % len(IMAGENET_CLASSES)]
    return f"{split}/{synset}/{synset}_{index // len(IMAGENET_CLASSES) + 1}.JPEG"


def write_imagenet(folder: Path, split: str, index: int, generator: Generator) -> None:
    """Paint and write the object of a number."""
    path = folder / imagenet_name(split, index)
    _write_image(path, paint_portrait(generator, IMAGENET_IMAGE_SIZE, IMAGENET_CLASSES[path.parent.name]).image)


def coco_content() -> dict:
    """Content of an annotation file without images."""
    categories = [{"id": id_, "name": name, "supercategory": group} for name, (id_, group) in COCO_CATEGORIES.items()]
    about = {"info": {"description": "demo scenes, drawn"}, "licenses": [{"id": 1, "name": "drawn here", "url": ""}]}
    return {**about, "images": [], "annotations": [], "categories": categories}


def write_coco(folder: Path, split: str, index: int, generator: Generator, content: dict) -> None:
    """Paint and write the scene of a number, and add what is seen in it to the content of the annotation file.

    Image ids have gaps (1, 4, 7, ...), as in the real set: an id is no index. Every eighth image holds no object, every
    ninth a crowd.
    """
    ranges = {"stop sign": 2, "umbrella": 2, "car": 4, "person": 4, "dog": 3}
    counts = {"tree": 1, "crowd": int(index % 9 == 4)}
    counts |= {kind: int(generator.integers(0, end)) for kind, end in ranges.items()}
    counts["sign"] = int(generator.random() < 0.25)
    if index % 8 == 5:
        counts = {"tree": 2, "sign": 1}
    scene = paint_street(generator, COCO_IMAGE_SIZES[index % len(COCO_IMAGE_SIZES)], counts)
    (height, width), image_id = scene.parts.shape, 1 + 3 * index
    name, annotations = f"{image_id:012d}.jpg", content["annotations"]
    _write_image(folder / f"{split}2017" / name, scene.image)
    content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width, "license": 1})
    for part, kind in enumerate(scene.kinds):
        crowd, mask = kind == "crowd", scene.parts == part
        category = COCO_CATEGORIES.get("person" if crowd else kind)
        outline = (_run_lengths(mask) if crowd else _polygons(mask)) if category and mask.any() else None
        if outline:
            bounds = [float(number) for number in cv2.boundingRect(mask.view(np.uint8))]
            found = {"category_id": category[0], "bbox": bounds, "area": float(mask.sum()), "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **found, "segmentation": outline})


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a mask, [x, y, x, y, ...] px each, along the edges of its pixels to within half a pixel."""
    fine = cv2.resize(mask.view(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [(cv2.approxPolyDP(contour, 2.0, True) + 0.5) / 4 for contour in contours]
    return [outline.ravel().round(2).tolist() for outline in outlines if len(outline) >= 3]


def _run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths of a crowd: down the columns, first the zeros."""
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    return {"counts": np.diff([0, *changes, mask.size]).tolist(), "size": list(mask.shape)}
