"""How the demo scenes are written: as Cityscapes, COCO and ImageNet lay out their images and annotations."""

import json
from pathlib import Path

import cv2
import numpy as np

from tasks.demo.canvas import Scene
from tasks.demo.painting import paint_portrait, paint_street

# What is painted -> Cityscapes' label id; "sign" is its "traffic sign", and a pole stays "unlabeled".
CITYSCAPES_IDS = {
    "void": 0, "pole": 0, "ego vehicle": 1, "road": 7, "sidewalk": 8, "building": 11, "sign": 20, "vegetation": 21,
    "sky": 23, "person": 24, "car": 26,
}  # fmt: skip
# COCO's own category ids and supercategories; other signs than stop signs are unlabelled there.
COCO_CATEGORIES = {
    "person": (1, "person"), "car": (3, "vehicle"), "stop sign": (13, "outdoor"), "dog": (18, "animal"),
    "umbrella": (28, "accessory"),
}  # fmt: skip
COCO_IMAGE_SIZES = ((240, 320), (240, 320), (240, 320), (320, 240), (224, 336))  # (H, W) px, in turn
# Each synset's first lemma and the portrait that shows it; the synsets' ids are WordNet's.
IMAGENET_CLASSES = {
    "n00007846": ("person", "person"),
    "n02084071": ("dog", "dog"),
    "n02834778": ("bicycle", "bicycle"),
    "n02958343": ("car", "car"),
    "n04254680": ("soccer ball", "ball"),
    "n04507155": ("umbrella", "umbrella"),
    "n06794110": ("street sign", "sign"),
    "n06874185": ("traffic light", "traffic light"),
}
IMAGENET_IMAGE_SIZE = (96, 96)


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image[..., ::-1] if image.ndim == 3 else image  # OpenCV writes BGR
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"could not write {path}")


def write_cityscapes(
    folder: Path, split: str, index: int, generator: np.random.Generator, image_size: tuple[int, int]
) -> None:
    """Paint and write the scene of a number, with its label map, under leftImg8bit and gtFine."""
    counts = {
        "tree": int(generator.integers(0, 3)),
        "car": int(generator.choice(4, p=(0.05, 0.4, 0.4, 0.15))),
        "sign": int(generator.choice(3, p=(0.08, 0.6, 0.32))),
        "person": int(generator.choice(4, p=(0.05, 0.4, 0.4, 0.15))),
    }
    scene = paint_street(generator, image_size, counts, ego_vehicle=generator.random() < 0.8)
    labels = np.array([CITYSCAPES_IDS[kind] for kind in scene.kinds], np.uint8)[scene.parts]
    name = f"demo_{index:06d}_000019"
    _write_image(folder / "leftImg8bit" / split / "demo" / f"{name}_leftImg8bit.png", scene.image)
    _write_image(folder / "gtFine" / split / "demo" / f"{name}_gtFine_labelIds.png", labels)


def imagenet_name(split: str, index: int) -> str:
    """File of the object of a number, relative to the set's folder; the classes take turns."""
    synset = list(IMAGENET_CLASSES)[index % len(IMAGENET_CLASSES)]
    return f"{split}/{synset}/{synset}_{index // len(IMAGENET_CLASSES) + 1}.JPEG"


def write_imagenet(folder: Path, split: str, index: int, generator: np.random.Generator) -> None:
    """Paint and write the object of a number."""
    path = folder / imagenet_name(split, index)
    _, kind = IMAGENET_CLASSES[path.parent.name]
    _write_image(path, paint_portrait(generator, IMAGENET_IMAGE_SIZE, kind).image)


class CocoFile:
    """One split's images and the annotations that go with them.

    Image ids have gaps (1, 4, 7, ...), as in the real set: an id is no index. Every eighth image holds no object, every
    ninth a crowd.
    """

    def __init__(self, split: str):
        self.split = split
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, folder: Path, index: int, generator: np.random.Generator) -> None:
        """Paint and write one image and note what is seen in it."""
        counts = {
            "tree": 1,
            "crowd": int(index % 9 == 4),
            "stop sign": int(generator.integers(0, 2)),
            "umbrella": int(generator.integers(0, 2)),
            "car": int(generator.integers(0, 4)),
            "person": int(generator.integers(0, 4)),
            "dog": int(generator.integers(0, 3)),
            "sign": int(generator.random() < 0.25),
        }
        if index % 8 == 5:
            counts = {"tree": 2, "sign": 1}
        scene = paint_street(generator, COCO_IMAGE_SIZES[index % len(COCO_IMAGE_SIZES)], counts)
        height, width = scene.parts.shape
        image_id = 1 + 3 * index
        name = f"{image_id:012d}.jpg"
        _write_image(folder / f"{self.split}2017" / name, scene.image)
        self.images.append(
            {
                "license": 1,
                "file_name": name,
                "coco_url": "",
                "height": height,
                "width": width,
                "date_captured": "2017-01-01 00:00:00",
                "flickr_url": "",
                "id": image_id,
            }
        )
        for part, kind in enumerate(scene.kinds):
            crowd = kind == "crowd"
            category = COCO_CATEGORIES.get("person" if crowd else kind)
            if category is not None:
                self._annotate(scene, part, image_id, category[0], crowd)

    def _annotate(self, scene: Scene, part: int, image_id: int, category_id: int, crowd: bool) -> None:
        mask = scene.parts == part
        outline = _run_lengths(mask) if crowd else _polygons(mask)
        if not outline:
            return
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        self.annotations.append(
            {
                "segmentation": outline,
                "area": float(mask.sum()),
                "iscrowd": int(crowd),
                "image_id": image_id,
                "bbox": [float(left), float(top), float(width), float(height)],
                "category_id": category_id,
                "id": len(self.annotations) + 1,
            }
        )

    def write(self, folder: Path) -> None:
        """Write the split's annotation file."""
        info = {
            "description": "demo scenes, drawn",
            "url": "",
            "version": "1.0",
            "year": 2017,
            "contributor": "",
            "date_created": "2017/01/01",
        }
        licenses = [{"url": "", "id": 1, "name": "drawn by this program"}]
        categories = [
            {"supercategory": group, "id": number, "name": name} for name, (number, group) in COCO_CATEGORIES.items()
        ]
        content = {
            "info": info,
            "licenses": licenses,
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }
        path = folder / "annotations" / f"instances_{self.split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


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
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"counts": counts.tolist(), "size": list(mask.shape)} if mask.any() else {}
