"""Writers of annotation tools' forms, from COCO's: what the readers are tried on."""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr


def rows(coco: dict):
    """Yield (image, [(class name, [left, top, width, height], annotation)])."""
    names, owned = {c["id"]: c["name"] for c in coco["categories"]}, defaultdict(list)
    for entry in coco["annotations"]:
        owned[entry["image_id"]].append((names[entry["category_id"]], entry["bbox"], entry))
    for image in coco["images"]:
        yield image, owned[image["id"]]


def copy(image: dict, images: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(images / image["file_name"], folder))


def write_yolo(root: Path, split: str, coco: dict, images: Path, *, polygons: bool = False) -> None:
    """images/{split}, labels/{split}, data.yaml with the names as a mapping."""
    ids = {c["name"]: number for number, c in enumerate(coco["categories"])}
    for image, objects in rows(coco):
        file = copy(image, images, root / "images" / split)
        labels = root / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        lines = []
        for name, (x, y, w, h), _ in objects:
            width, height = image["width"], image["height"]
            values = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
            if polygons:
                values = x, y, x + w, y, x + w, y + h, x, y + h
                values = [v / (width, height)[k % 2] for k, v in enumerate(values)]
            lines.append(f"{ids[name]} {' '.join(map(repr, values))}\n")
        if lines:
            (labels / f"{file.stem}.txt").write_text("".join(lines))
    names = "".join(f"  {number}: {json.dumps(name)}\n" for name, number in ids.items())
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")


def write_labelme(root: Path, split: str, coco: dict, images: Path) -> None:
    """{split}/ with a JSON file beside each image; boxes as rectangles."""
    for image, objects in rows(coco):
        file = copy(image, images, root / split)
        shapes = [
            {"label": name, "points": [[x, y], [x + w, y + h]], "shape_type": "rectangle", "flags": {}}
            for name, (x, y, w, h), _ in objects
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": file.name, "imageData": None,
                   "imageHeight": image["height"], "imageWidth": image["width"]}  # fmt: skip
        file.with_suffix(".json").write_text(json.dumps(content))


def write_flat_voc(root: Path, split: str, coco: dict, images: Path) -> None:
    """{split}/ with an XML file beside each image, px counted from 1 with the last one included."""
    for image, objects in rows(coco):
        file = copy(image, images, root / split)
        entries = "".join(
            f"<object><name>{escape(name)}</name><difficult>0</difficult><bndbox><xmin>{x + 1!r}</xmin>"
            f"<ymin>{y + 1!r}</ymin><xmax>{x + w!r}</xmax><ymax>{y + h!r}</ymax></bndbox></object>"
            for name, (x, y, w, h), _ in objects
        )
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        file.with_suffix(".xml").write_text(
            f"<annotation><folder/><filename>{escape(file.name)}</filename>{size}{entries}</annotation>"
        )


def write_cvat(root: Path, split: str, coco: dict, images: Path) -> None:
    """{split}/annotations.xml and {split}/images."""
    entries = []
    for number, (image, objects) in enumerate(rows(coco)):
        file = copy(image, images, root / split / "images")
        boxes = "".join(
            f'<box label={quoteattr(name)} source="manual" occluded="0" xtl="{x!r}" ytl="{y!r}" xbr="{x + w!r}" '
            f'ybr="{y + h!r}" z_order="0"></box>'
            for name, (x, y, w, h), _ in objects
        )
        entries.append(
            f'<image id="{number}" name={quoteattr(file.name)} width="{image["width"]}" height="{image["height"]}">'
            f"{boxes}</image>"
        )
    labels = "".join(f"<label><name>{escape(c['name'])}</name></label>" for c in coco["categories"])
    (root / split / "annotations.xml").write_text(
        f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        f"{''.join(entries)}</annotations>"
    )


def write_roboflow_coco(root: Path, split: str, coco: dict, images: Path) -> None:
    """train/_annotations.coco.json beside the images, valid/ for val; the first category heads the others."""
    folder = root / {"val": "valid"}.get(split, split)
    for image, _ in rows(coco):
        copy(image, images, folder)
    top = min(c["id"] for c in coco["categories"]) - 1
    categories = [{"id": top, "name": "things", "supercategory": "none"}]
    categories += [c | {"supercategory": "things"} for c in coco["categories"]]
    (folder / "_annotations.coco.json").write_text(json.dumps(coco | {"categories": categories}))


def write_cvat_coco(root: Path, split: str, coco: dict, images: Path) -> None:
    """annotations/instances_{Train, Validation}.json and images/{Train, Validation}."""
    subset = {"val": "Validation"}.get(split, split.capitalize())
    for image, _ in rows(coco):
        copy(image, images, root / "images" / subset)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{subset}.json").write_text(json.dumps(coco))
