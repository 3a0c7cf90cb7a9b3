"""The demo data on disk, in the layouts of Cityscapes, COCO and ImageNet, so that the real data code reads it."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from tasks.data.demo_canvas import Scene
from tasks.data.demo_painting import paint_portrait, paint_street

VERSION = 1  # of the pictures: raise it when they change, and folders drawn before are refused
DESCRIPTION = "demo.json"

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

_SPLITS = ("train", "val")
_DATASETS = ("cityscapes", "coco", "imagenet")


def draw_demo_data(
    root: Path,
    *,
    seed: int = 0,
    num_train: int = 240,
    num_val: int = 48,
    image_size: tuple[int, int] = (128, 256),
    progress: Callable = track,
) -> Path:
    """Draw the demo data once: street scenes for segmentation and detection, single objects for classification.

    Write `root/cityscapes`, `root/coco`, `root/imagenet` and, describing them, `root/demo.json`. The same arguments
    give the same bytes, and each picture depends on nothing but the seed, its data set, its split and its number. The
    folder appears complete or not at all, also when several processes draw it at once. A folder that already holds this
    data is left as it is.

    Args:
        root: The folder to create; its parents are created too.
        seed: 0 or more.
        num_train: Training images in each of the three sets.
        num_val: Validation images in each.
        image_size: (H, W) px of the Cityscapes scenes, at least (64, 64); the COCO images are about 240x320 px, the
            ImageNet ones 96x96 px.
        progress: Called with the list of pictures and `description=`; returns what to iterate over.

    Returns:
        root.

    Raises:
        ValueError: root holds something else (other arguments, another version, somebody's files); or an argument is
            out of range.
    """
    if seed < 0 or min(num_train, num_val) < 1 or min(image_size) < 64:
        raise ValueError(
            f"demo data needs seed >= 0, at least one image a split and 64x64 px; got seed={seed}, "
            f"num_train={num_train}, num_val={num_val}, image_size={tuple(image_size)}"
        )
    root = Path(root)
    description = {
        "version": VERSION,
        "seed": seed,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": list(image_size),
    }
    if _is_drawn(root, description):
        return root
    place = root.expanduser().absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _draw(temporary, description, progress)
        try:
            temporary.rename(place)
        except OSError:
            if not _is_drawn(root, description):  # another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _is_drawn(root: Path, description: dict) -> bool:
    """Whether root holds the data described; False where there is nothing yet, ValueError where something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / DESCRIPTION).read_text())
    except (OSError, ValueError):
        found = f"no readable {DESCRIPTION}, so it was not drawn here"
    if found == description:
        return True
    raise ValueError(
        f"{root} does not hold the demo data asked for: it has {found}, asked for was {description}.\n"
        "Delete that folder or choose another data.root."
    )


def _draw(folder: Path, description: dict, progress: Callable) -> None:
    counts = dict(zip(_SPLITS, (description["num_train"], description["num_val"]), strict=True))
    image_size = tuple(description["image_size"])
    annotations = {split: _CocoFile(split) for split in counts}
    pictures = [(data, split, index) for data in _DATASETS for split in counts for index in range(counts[split])]
    for data, split, index in progress(pictures, description="drawing the demo data"):
        stream = [description["seed"], _DATASETS.index(data), _SPLITS.index(split), index]
        generator = np.random.default_rng(stream)
        if data == "cityscapes":
            _write_cityscapes(folder / data, split, index, generator, image_size)
        elif data == "coco":
            annotations[split].add(folder / data, index, generator)
        else:
            _write_imagenet(folder / data, split, index, generator)
    for file in annotations.values():
        file.write(folder / "coco")
    (folder / DESCRIPTION).write_text(json.dumps(description) + "\n")


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image[..., ::-1] if image.ndim == 3 else image  # OpenCV writes BGR
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"could not write {path}")


def _write_cityscapes(
    folder: Path, split: str, index: int, generator: np.random.Generator, image_size: tuple[int, int]
) -> None:
    counts = {
        "tree": int(generator.integers(1, 3)),
        "car": int(generator.choice(4, p=(0.05, 0.3, 0.45, 0.2))),
        "sign": int(generator.choice(3, p=(0.08, 0.5, 0.42))),
        "person": int(generator.choice(4, p=(0.05, 0.3, 0.4, 0.25))),
    }
    scene = paint_street(generator, image_size, counts, ego_vehicle=generator.random() < 0.8)
    labels = np.array([CITYSCAPES_IDS[kind] for kind in scene.kinds], np.uint8)[scene.parts]
    name = f"demo_{index:06d}_000019"
    _write_image(folder / "leftImg8bit" / split / "demo" / f"{name}_leftImg8bit.png", scene.image)
    _write_image(folder / "gtFine" / split / "demo" / f"{name}_gtFine_labelIds.png", labels)


def _write_imagenet(folder: Path, split: str, index: int, generator: np.random.Generator) -> None:
    classes = list(IMAGENET_CLASSES)
    synset = classes[index % len(classes)]
    _, kind = IMAGENET_CLASSES[synset]
    scene = paint_portrait(generator, IMAGENET_IMAGE_SIZE, kind)
    _write_image(folder / split / synset / f"{synset}_{index // len(classes) + 1}.JPEG", scene.image)


class _CocoFile:
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
        self.annotations.append({
            "segmentation": outline, "area": float(mask.sum()), "iscrowd": int(crowd), "image_id": image_id,
            "bbox": [float(left), float(top), float(width), float(height)], "category_id": category_id,
            "id": len(self.annotations) + 1,
        })  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write the split's annotation file."""
        info = {
            "description": "demo scenes, drawn",
            "url": "",
            "version": str(VERSION),
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
