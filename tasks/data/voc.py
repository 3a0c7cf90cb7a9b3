"""Read Pascal VOC: JPEGImages, Annotations with one XML file an image, ImageSets/Main with one list a split.

Flat exports of annotation tools, each XML file beside its image, are read as well.

Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge"; the development kits' own layout.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from tasks.data.class_names import class_names as read_names
from tasks.data.described_images import DescribedImage, DescribedImages, DescribedObject
from tasks.data.split_folders import flat_folder, has_flat_split
from tasks.files.file_lists import list_files
from tasks.files.images import is_image
from tasks.files.plain_xml import read_xml
from tasks.files.safe_paths import below
from tasks.files.text_lists import read_lines
from tasks.values.errors import DataError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VocData(DescribedImages):
    """Read Pascal VOC, or a user's own images annotated in its form.

    Pixel coordinates in the files count from 1 and include the last pixel; here boxes count from 0 and exclude it.
    Objects marked difficult are not trained on. An evaluation ignores them and the detections on them, by VOC's rule.
    Class ids are 1..K; image ids are 1..N in order of the lists, or of the names of flat files.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets, or with several such folders; or with train and val
            (or valid, test), where XML files and images lie side by side.
        train_sets, val_sets: Names of lists in ImageSets/Main, "VOC2007/trainval" being one of root/VOC2007; or of the
            folders of a flat export.
        class_names: Classes to keep, in this order; the objects of others are left out. None: VOC's 20, or in a flat
            export all that occur, sorted.
        options: As in `DetectionData`.

    Raises:
        DataError: A list, an annotation or an object's box is missing or invalid (when a set is opened; of a flat
            export at once).
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
        folder = Path(root).expanduser()
        sets = {"train": train_sets, "val": val_sets}
        self.sets = {split: (names,) if isinstance(names, str) else tuple(names) for split, names in sets.items()}
        listed = {entry.rpartition("/")[0] for names in self.sets.values() for entry in names}
        kits = any((folder / kit / part).is_dir() for kit in listed for part in ("ImageSets", "JPEGImages"))
        self.flat = not kits and has_flat_split(folder, self.sets["train"][0], ".xml")
        self.strict = "VOC" if class_names is None and not self.flat else ""
        names = VOC_CLASSES if self.strict else class_names
        if names is not None and not read_names(names):
            raise ValueError("data.class_names is empty; name the classes to keep, or set null for VOC's 20")
        super().__init__(folder, names, first_id=1, **options)

    def named_by(self, split: str, index: int) -> Path:
        file = self.annotations(split).name(index).replace("JPEGImages/", "Annotations/", 1)
        return self.root / PurePosixPath(file).with_suffix(".xml")

    def has_split(self, split: str) -> bool:
        return has_flat_split(self.root, self.sets[split][0], ".xml")

    def describe(self, split: str) -> Iterator[DescribedImage]:
        for file, folder, stem in self._flat_files(split) if self.flat else self._files(split):
            name, size, objects = read_objects(file)
            suffix = Path(name).suffix if is_image(name) else ".jpg"  # the rest of the name is often out of date
            yield DescribedImage(f"{folder}{stem}{suffix}", size, [DescribedObject(*entry) for entry in objects], file)

    def _flat_files(self, split: str) -> Iterator[tuple[Path, str, str]]:
        """Yield as `_files`, of XML files that lie beside their images."""
        folder = flat_folder(self.root, self.sets[split][0], ".xml")
        for file in list_files(folder, lambda path: path.suffix.lower() == ".xml", what="XML files", passed=is_image):
            parent = file.parent.relative_to(self.root).as_posix()
            yield file, "" if parent == "." else f"{parent}/", file.stem

    def _files(self, split: str) -> Iterator[tuple[Path, str, str]]:
        """Yield annotation file, folder ("JPEGImages/", "VOC2007/JPEGImages/") and stem of each image of a split."""
        for entry in self.sets[split]:
            prefix, _, name = entry.rpartition("/")
            folder = f"{prefix}/" if prefix else ""
            images = self.root / folder / "ImageSets" / "Main" / f"{name}.txt"
            if not images.is_file():
                raise DataError(
                    f"no file {images}; expected the names of images there (set data.root, data.{split}_sets)"
                )
            for line in read_lines(images):
                file, stem = self._annotated(line, folder, images)
                yield file, f"{folder}JPEGImages/", stem

    def _annotated(self, line: str, folder: str, images: Path) -> tuple[Path, str]:
        """Find the file and stem that a line of a list means; lists of a class have a second column, -1, 0 or 1."""
        name = line.replace("\\", "/")
        first, *column = name.rsplit(maxsplit=1)
        stems = [name, *([first] if column and column[0] in ("-1", "0", "1") else [])]
        stems += [str(PurePosixPath(stem).with_suffix("")) for stem in stems if is_image(stem)]
        for stem in stems:
            file = self.root / folder / "Annotations" / f"{below(stem, images)}.xml"
            if file.is_file():
                return file, stem
        raise DataError(f"{images} lists {line}, but there is no {file}")


def read_objects(file: Path) -> tuple[str, tuple[int, int], list[tuple[str, list[float], bool]]]:
    """Read an annotation file.

    Returns:
        File name of the image, its (H, W) px (0 where not stated), and for each object its class, box [left, top,
        width, height] px counted from 0, and whether it is difficult.

    Raises:
        DataError: The file is not XML, lacks a part, or declares a document type (which may hide an entity bomb).
    """
    tree = read_xml(file)
    try:
        size = tuple(int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
        objects = []
        for entry in tree.iter("object"):
            corners = [_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top = corners[0] - 1, corners[1] - 1
            box = [left, top, corners[2] - left, corners[3] - top]
            objects.append((_text(entry, "name"), box, (entry.findtext("difficult") or "0").strip() == "1"))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file}: {error}") from error
    return (tree.findtext("filename") or "").strip(), size, objects


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
