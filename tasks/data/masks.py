"""Read a user's own images and masks, in two folders a split."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tasks.data.class_names import class_names as read_names
from tasks.data.classes import Classes
from tasks.data.color_masks import ColorMasks
from tasks.data.masked_images import Pairs, SegmentationDataset
from tasks.data.segmentation import SegmentationData, id_table
from tasks.files.file_lists import list_files
from tasks.files.images import is_image
from tasks.pictures.colors import distinct_colors
from tasks.values.counted import counted
from tasks.values.errors import DataError


class MaskFolders(SegmentationData):
    """Read images and masks with the same file name (without suffix) in two folders a split.

    A mask has one channel of class ids, or with a `palette` the colours of the classes.

    Args:
        root: Folder to which the other folders are relative.
        class_names: Name of each class; class k has the id k in the masks.
        train_images, train_masks, val_images, val_masks: Folders.
        mask_suffix: End of the masks' names that the images' names lack, "_mask" or "_mask.png"; None: nothing.
        ignore_ids: Ids in the masks whose pixels are ignored; 255 is always ignored.
        palette: One RGB colour a class, by which masks in colours are read, too; None: `distinct_colors`.
        ignore_colors: RGB colours in such masks whose pixels are ignored.
        options: As in `SegmentationData`.

    Raises:
        ValueError: There are no class names, one repeats, or palette and names differ in number.
        DataError: A folder is missing, an image has no mask or a mask no image (when the set is opened).
    """

    def __init__(
        self,
        root: str,
        class_names: Sequence[str],
        *,
        train_images: str = "train/images",
        train_masks: str = "train/masks",
        val_images: str = "val/images",
        val_masks: str = "val/masks",
        mask_suffix: str | None = None,
        ignore_ids: Sequence[int] = (),
        palette: Sequence[Sequence[int]] | None = None,
        ignore_colors: Sequence[Sequence[int]] = (),
        **options,
    ) -> None:
        names = read_names(class_names)
        if not names:
            raise ValueError(
                "data.class_names is empty; name the classes in order of their ids: data.class_names=[a,b]"
            )
        colors = tuple(tuple(map(int, color)) for color in palette or distinct_colors(len(names)))
        if len(colors) != len(names):
            raise ValueError(f"data.palette has {len(colors)} colours for {len(names)} classes")
        table = id_table({label: label for label in range(len(names))}, ignored=ignore_ids)
        super().__init__(Classes(names, colors), table, **options)
        self.root = Path(root).expanduser()
        self.colored, self.ignore_colors = palette is not None, ignore_colors
        ending = mask_suffix or ""
        self.mask_suffix = str(Path(ending).with_suffix("")) if is_image(ending) else ending
        self.folders = {"train": (train_images, train_masks), "val": (val_images, val_masks)}

    def images(self, split: str) -> list[Path]:
        files = list_files(self.root / Path(self.folders[split][0]).expanduser(), is_image, what="images")
        return [file for file in files if not (self.mask_suffix and file.stem.endswith(self.mask_suffix))]

    def pairs(self, split: str) -> Pairs:
        folders = (self.root / Path(folder).expanduser() for folder in self.folders[split])
        return paired_files(*folders, mask_suffix=self.mask_suffix)

    def make_dataset(self, split: str) -> SegmentationDataset:
        if not self.colored:
            return super().make_dataset(split)
        augmentations = self.augmentations if split == "train" else ()
        return ColorMasks(
            self.pairs(split), self.table, augmentations, self.progressive, self.seed,
            palette=self.classes.palette, ignored=self.ignore_colors,
        )  # fmt: skip


def paired_files(image_folder: Path, mask_folder: Path, *, mask_suffix: str = "") -> Pairs:
    """Pair the images of a folder with the masks of another, or of the same one, that have the same name.

    Args:
        image_folder, mask_folder: Folders, whose subfolders are searched too.
        mask_suffix: End of the masks' names, suffix of the file aside, that the images' names lack: "_mask".

    Raises:
        DataError: A folder is missing or empty, or an image or mask has no other.
    """
    images = _by_stem(image_folder, "images")
    masks = _by_stem(mask_folder, "masks (PNG, one class id a pixel)")
    if mask_suffix:
        end = len(mask_suffix)
        images = {stem: path for stem, path in images.items() if not stem.endswith(mask_suffix)}
        masks = {stem[:-end]: path for stem, path in masks.items() if stem.endswith(mask_suffix)}
        if not masks:
            raise DataError(f"{mask_folder} has no mask *{mask_suffix}.*; expected that end (set data.mask_suffix)")
    for kind, without, having, folder in (
        ("image", images.keys() - masks.keys(), images, mask_folder),
        ("mask", masks.keys() - images.keys(), masks, image_folder),
    ):
        if without:
            other, stem = ("mask" if kind == "image" else "image"), Path(min(without)).name
            expected = f"{stem}{mask_suffix if kind == 'image' else ''}.*"
            raise DataError(
                f"{counted(len(without), f'{kind} has', f'{kind}s have')} no {other}, the first: "
                f"{having[min(without)]}; expected {expected} in {folder}"
            )
    return [(images[stem], masks[stem]) for stem in images]


def _by_stem(folder: Path, what: str) -> dict[str, Path]:
    files = {}
    for path in list_files(folder, is_image, what=what):
        key = unicodedata.normalize("NFC", str(path.relative_to(folder).with_suffix("")))  # a Mac decomposes letters
        if key in files:
            raise DataError(f"{files[key]} and {path} have one name; names must be unique, suffix aside")
        files[key] = path
    return files
