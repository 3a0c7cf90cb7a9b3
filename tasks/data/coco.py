"""Read COCO, and other data sets annotated in its JSON form."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from tasks.data.annotations import Annotations
from tasks.data.class_names import class_names as read_names
from tasks.data.coco_json import Content, check_names, flatten, is_listing, read_categories, read_json, unused_parents
from tasks.data.coco_layouts import OFFICIAL, find_layout
from tasks.data.datamodule import SPLITS
from tasks.data.detection import DetectionData, numbered_classes
from tasks.data.label_counts import Finding
from tasks.values.errors import DataError


class CocoData(DetectionData):
    """Read one folder of images and one JSON file ("images", "annotations", "categories") for each split.

    Labels are 0..K-1 in order of the category ids, which `classes.ids` keeps. A category is left out if it is the
    "supercategory" of others and has no annotation in either split. The validation file may lack "annotations", as that
    of COCO's test set: then its images can be predicted, not evaluated.

    Args:
        root: Folder to which the other paths are relative.
        train_images, train_json, val_images, val_json: Folders of images, annotation files; the defaults, where they
            are not there, mean what `find_layout` finds.
        class_names: Categories to keep; the boxes of others are left out. None: all.
        options: As in `DetectionData`.

    Raises:
        ValueError: A class name that the JSON does not define.
        DataError: An annotation file is missing or invalid, or the two define different categories. The training file
            is read when the training set is opened.
    """

    def __init__(
        self,
        root: str,
        *,
        train_images: str = OFFICIAL["train"][0],
        train_json: str = OFFICIAL["train"][1],
        val_images: str = OFFICIAL["val"][0],
        val_json: str = OFFICIAL["val"][1],
        class_names: Sequence[str] | None = None,
        **options,
    ) -> None:
        base = Path(root).expanduser()
        self.root = base
        places = {
            "train": find_layout(base, train_images, train_json),
            "val": find_layout(base, val_images, val_json),
        }
        self.folders = {split: folder for split, (folder, _) in places.items()}
        self.files = {split: file for split, (_, file) in places.items()}
        first = "val" if self.files["val"].is_file() else "train"  # COCO's own val file is a twentieth of the other
        if not self.files[first].is_file():
            raise DataError(
                f"neither {self.files['train']} nor {self.files['val']} is there; expected COCO annotations "
                "(set data.root, data.train_json, data.val_json)"
            )
        content = read_json(self.files[first], listing=first == "val")
        self.unannotated = is_listing(content)  # the validation set
        content.setdefault("annotations", [])
        categories = read_categories(content, self.files[first])
        chosen = read_names(class_names, categories.values()) if class_names is not None else None
        for name in chosen or ():
            if name not in categories.values():
                known = ", ".join(categories.values())
                raise ValueError(f"data.class_names: {name!r} is no category of {self.files[first]}; expected {known}")
        self._contents: dict[str, Content] = {}  # read, but not flattened yet
        self.headings = self._headings(content, first, categories, chosen)
        self.categories = {i: name for i, name in categories.items() if i not in self.headings}
        check_names(self.categories, self.files[first])
        kept = [i for i, name in self.categories.items() if chosen is None or name in chosen]
        super().__init__(numbered_classes([self.categories[i] for i in kept], kept), **options)
        self._annotations[first] = self._flatten(content, first)

    def annotations(self, split: str) -> Annotations:
        if split == "val" and self.unannotated:
            raise DataError(
                f"{self.files[split]} lists images without annotations, so there is nothing to judge by; predictions "
                "of these images: tools/predict.py split=test"
            )
        return super().annotations(split)

    def listed(self, split: str) -> Annotations:
        if split != "val" or not self.unannotated:
            return super().listed(split)
        annotations, _, missing = super().annotations(split).located()
        if len(missing):
            raise DataError(
                f"{annotations.source}: {len(missing)} of the {len(annotations)} images are not in "
                f"{annotations.folder}, the first: {annotations.name(missing[0])}; put them there"
            )
        return annotations

    def read_annotations(self, split: str) -> Annotations:
        if split not in SPLITS:
            raise ValueError(f"there is no split {split}; expected {' or '.join(SPLITS)}")
        if not self.files[split].is_file():
            raise DataError(
                f"no file {self.files[split]}; expected COCO annotations there (set data.root, data.{split}_json), or "
                "make the split from images that are there: tools/data.py action=split splits=[train]"
            )
        content = self._contents.pop(split, None) or read_json(self.files[split], listing=split == "val")
        content.setdefault("annotations", [])
        categories = read_categories(content, self.files[split])
        spare = unused_parents(content, self.files[split], categories) - self.categories.keys()
        categories = {i: name for i, name in categories.items() if i not in spare}
        if categories != self.categories:
            other = self.files["val" if split == "train" else "train"]
            number, name = min(categories.items() ^ self.categories.items())
            raise DataError(
                f"{self.files[split]} and {other} define different categories: only one of them has id {number} = "
                f"{name!r}; both must define the same"
            )
        return self._flatten(content, split)

    def notes(self) -> list[Finding]:
        return [
            Finding(
                logging.WARNING,
                f"category {number}, {name!r}, is the supercategory of others and has no annotation: left out "
                "(name it in data.class_names=[...] to keep it)",
            )
            for number, name in self.headings.items()
        ]

    def _headings(
        self, content: Content, split: str, categories: dict[int, str], chosen: Sequence[str] | None
    ) -> dict[int, str]:
        """Find categories that are the supercategory of others and have no annotation, unless they are chosen."""
        unused = unused_parents(content, self.files[split], categories)
        other = "val" if split == "train" else "train"
        if unused and self.files[other].is_file():
            with contextlib.suppress(DataError):  # told when that split is opened
                self._contents[other] = read_json(self.files[other])
                there = read_categories(self._contents[other], self.files[other])
                unused -= there.keys() - unused_parents(self._contents[other], self.files[other], there)
        if len(unused) == len(categories):
            return {}
        names = {i: name for i, name in categories.items() if i in unused}
        used = {name for i, name in categories.items() if i not in unused}
        return {i: name for i, name in names.items() if chosen is None or name not in chosen or name in used}

    def _flatten(self, content: Content, split: str) -> Annotations:
        labels = {identifier: label for label, identifier in enumerate(self.classes.ids)}
        return flatten(content, self.files[split], self.folders[split], labels, self.categories, outlined=self.outlined)
