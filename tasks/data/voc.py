"""Read Pascal VOC: JPEGImages, Annotations with one XML file an image, ImageSets/Main with one list a split.

Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge"; the development kits' own layout.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from tasks.data.annotations import Annotations
from tasks.data.class_names import class_names as read_names
from tasks.data.datamodule import SPLITS
from tasks.data.detection import DetectionData, numbered_classes
from tasks.data.errors import DataError
from tasks.data.safe_paths import below
from tasks.data.text_lists import read_lines
from tasks.files.images import is_image

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
logger = logging.getLogger(__name__)


class VocData(DetectionData):
    """Read Pascal VOC, or a user's own images annotated in its form.

    Pixel coordinates in the files count from 1 and include the last pixel; here boxes count from 0 and exclude it.
    Objects marked difficult are not trained on. An evaluation ignores them and the detections on them, by VOC's rule.
    Class ids are 1..K; image ids are 1..N in order of the lists.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets, or with several such folders.
        train_sets, val_sets: Names of lists in ImageSets/Main; "VOC2007/trainval" is one of root/VOC2007.
        class_names: Classes to keep, in this order; the objects of others are left out. None: VOC's 20.
        options: As in `DetectionData`.

    Raises:
        DataError: A list, an annotation or an object's box is missing or invalid (when a set is opened).
    """

    by_stem = True

    def __init__(
        self,
        root: str,
        *,
        train_sets: Sequence[str] = ("train",),
        val_sets: Sequence[str] = ("val",),
        class_names: Sequence[str] | None = None,
        **options,
    ) -> None:
        self.root = Path(root).expanduser()
        sets = {"train": train_sets, "val": val_sets}
        self.sets = {split: (names,) if isinstance(names, str) else tuple(names) for split, names in sets.items()}
        self.strict = class_names is None
        names = VOC_CLASSES if class_names is None else read_names(class_names)
        if not names:
            raise ValueError("data.class_names is empty; name the classes to keep, or set null for VOC's 20")
        super().__init__(numbered_classes(names, range(1, len(names) + 1)), **options)

    def named_by(self, split: str, index: int) -> Path:
        file = self.annotations(split).name(index).replace("JPEGImages/", "Annotations/", 1)
        return self.root / PurePosixPath(file).with_suffix(".xml")

    def read_annotations(self, split: str) -> Annotations:
        if split not in SPLITS:
            raise ValueError(f"there is no split {split}; expected {' or '.join(SPLITS)}")
        labels = {name: label for label, name in enumerate(self.classes.names)}
        names, sizes, rows, others = [], [], [], Counter()
        for file, folder, stem in self._files(split):
            name, size, objects = read_objects(file)
            suffix = Path(name).suffix if is_image(name) else ".jpg"  # the rest of the name is often out of date
            for kind, box, difficult in objects:
                if kind in labels:
                    rows.append((len(names), box, labels[kind], difficult))
                elif self.strict:
                    raise DataError(
                        f"{file} has an object {kind!r}, no class of VOC; name your own in data.class_names"
                    )
                else:
                    others[kind] += 1
            names.append(f"{folder}JPEGImages/{stem}{suffix}")
            sizes.append(size)
        if others:
            logger.info(
                "%s, %s: objects left out, as data.class_names does not name them: %s",
                self.root,
                split,
                ", ".join(f"{number} {kind}" for kind, number in others.most_common()),
            )
        owners, boxes, kinds, difficult = zip(*rows, strict=True) if rows else ((),) * 4
        return Annotations.gather(
            self.root,
            self.root,
            names=names,
            image_ids=range(1, len(names) + 1),
            sizes=sizes,
            owners=owners,
            boxes=boxes,
            labels=kinds,
            crowd=difficult,
            difficult=True,
            areas=[width * height for _, _, width, height in boxes],
        )

    def _files(self, split: str) -> Iterator[tuple[Path, str, str]]:
        """Yield annotation file, folder ("" or "VOC2007/") and image name of each image of a split."""
        for entry in self.sets[split]:
            prefix, _, name = entry.rpartition("/")
            folder = f"{prefix}/" if prefix else ""
            images = self.root / folder / "ImageSets" / "Main" / f"{name}.txt"
            if not images.is_file():
                raise DataError(
                    f"no file {images}; expected the names of images there (set data.root, data.{split}_sets)"
                )
            for line in read_lines(images):
                yield self._annotated(line, folder, images)

    def _annotated(self, line: str, folder: str, images: Path) -> tuple[Path, str, str]:
        """Read a line of a list as in `_files`; lists of a class have a second column, -1, 0 or 1."""
        name = line.replace("\\", "/")
        first, *column = name.rsplit(maxsplit=1)
        stems = [name, *([first] if column and column[0] in ("-1", "0", "1") else [])]
        stems += [str(PurePosixPath(stem).with_suffix("")) for stem in stems if is_image(stem)]
        for stem in stems:
            file = self.root / folder / "Annotations" / f"{below(stem, images)}.xml"
            if file.is_file():
                return file, folder, stem
        raise DataError(f"{images} lists {line}, but there is no {file}")


def read_objects(file: Path) -> tuple[str, tuple[int, int], list[tuple[str, list[float], bool]]]:
    """Read an annotation file.

    Returns:
        File name of the image, its (H, W) px (0 where not stated), and for each object its class, box [left, top,
        width, height] px counted from 0, and whether it is difficult.

    Raises:
        DataError: The file is not XML, lacks a part, or declares a document type (which may hide an entity bomb).
    """
    try:
        tree = ElementTree.fromstring(file.read_bytes(), ElementTree.XMLParser(target=_PlainTree()))
        size = tuple(int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
        objects = []
        for entry in tree.iter("object"):
            corners = [_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top = corners[0] - 1, corners[1] - 1
            box = [left, top, corners[2] - left, corners[3] - top]
            objects.append((_text(entry, "name"), box, (entry.findtext("difficult") or "0").strip() == "1"))
    except (ElementTree.ParseError, ValueError, OverflowError, LookupError, RecursionError) as error:
        raise DataError(f"{file}: {error}") from error
    return (tree.findtext("filename") or "").strip(), size, objects


class _PlainTree(ElementTree.TreeBuilder):
    def doctype(self, name: str, public: str, system: str) -> None:
        raise ValueError(
            "it declares a document type (<!DOCTYPE>), which annotations have no use for; remove that line"
        )


def _text(entry: ElementTree.Element, path: str) -> str:
    text = (entry.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"an object has no {path}")
    return text


def _number(entry: ElementTree.Element, path: str) -> float:
    text = _text(entry, path)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"an object has {path}={text!r}; expected a number") from None
