"""Find images that are there more than once, and images that no split names."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.data.datamodule import SPLITS, VisionDataModule
from tasks.files.images import is_image
from tasks.files.visible_files import visible_files
from tasks.inspection.check import SplitLooks
from tasks.values.counted import counted
from tasks.values.errors import DataError

COMPARED = 20_000  # images up to which every one is compared with every other
NEAR = 5  # bits, of 128, that near-duplicates may differ by
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)  # of each byte

Member = tuple[str, int]  # split and index


def find_duplicates(found: Mapping[str, SplitLooks]) -> dict[str, Any]:
    """Compare all images of all splits.

    Args:
        found: What `look_at` gave for each split.

    Returns:
        {"problems", "warnings": texts, "flawed": [(split, index)] behind a problem, "between", "within", "near":
        groups of files}: the same bytes in two splits, the same bytes in one, and images that are as good as equal at
        8x8 px. An image that is in two splits is a problem: an evaluation would count what was trained on; so is one
        in two classes. The others are warnings.
    """
    groups, near = defaultdict(list), []
    members = [(split, index) for split, one in found.items() for index in range(len(one.looks))]
    for split, index in members:
        if (digest := found[split].looks[index].digest) is not None:
            groups[digest].append((split, index))
    repeated = [group for group in groups.values() if len(group) > 1]
    between = [group for group in repeated if len({split for split, _ in group}) > 1]
    within = [group for group in repeated if group not in between]
    first = [group[0] for group in groups.values()]
    near = [[first[a], first[b]] for a, b in _near_pairs([found[s].looks[i].shades for s, i in first])]

    def place(member: Member) -> str:
        return found[member[0]].dataset.file(member[1])

    problems, warnings, flawed = [], [], []
    if between:
        pair = [next(m for m in between[0] if m[0] == split) for split in dict.fromkeys(s for s, _ in between[0])]
        problems.append(
            f"{counted(len(between), 'image is', 'images are')} in {' and '.join(found)} alike, byte for byte, the "
            f"first: {place(pair[0])} = "
            f"{place(pair[1])}; keep each in one split, or the evaluation counts what was trained on"
        )
        flawed += [member for group in between for member in group if member[0] != pair[0][0]]
    for group in repeated:
        labels = {found[split].dataset.image_class(index): (split, index) for split, index in group}
        if len(labels) > 1:
            a, b = list(labels.values())[:2]
            problems.append(f"{place(a)} and {place(b)} are one image in two classes; keep it in one of them")
            flawed += [a, b]
    for groups_found, text in ((within, "in one split more than once, byte for byte"),
                               (near, "that may be near-duplicates: as good as equal at 8x8 px")):  # fmt: skip
        if groups_found:
            a, b = groups_found[0][:2]
            kinds = ("group", "groups") if groups_found is within else ("pair", "pairs")
            what = counted(len(groups_found), *(f"{kind} of images" for kind in kinds))
            warnings.append(f"{what} {text}, the first: {place(a)} = {place(b)}")
    listed = {name: [[place(member) for member in group] for group in part]
              for name, part in (("between", between), ("within", within), ("near", near))}  # fmt: skip
    return {"problems": problems, "warnings": warnings, "flawed": flawed, **listed}


def _near_pairs(shades: list[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """Pairs of numbers of images whose shades differ by `NEAR` bits at most; in a large set only by none."""
    known = [number for number, value in enumerate(shades) if value is not None]
    if len(known) > COMPARED:
        groups = defaultdict(list)
        for number in known:
            groups[shades[number]].append(number)
        return [(group[0], other) for group in groups.values() for other in group[1:]]
    rows = np.array([shades[number] for number in known], np.uint64).reshape(-1, 2).view(np.uint8)
    pairs = []
    for row in range(len(rows) - 1):
        apart = ONES[rows[row + 1 :] ^ rows[row]].sum(1)
        pairs += [(known[row], known[row + 1 + other]) for other in np.flatnonzero(apart <= NEAR)]
    return pairs


def unnamed_images(data: VisionDataModule) -> list[str]:
    """List the images on disk, in a data set's folders, that no split names, sorted."""
    named, folders = set(), set()
    for split in SPLITS:
        try:
            dataset = data.whole_dataset(split)
        except (DataError, ValueError):
            continue
        if (own := dataset.folders()) is None:
            return []  # shards hold what their index names
        folders |= own
        named |= {dataset.file(index) for index in range(len(dataset))}
    outer = {folder for folder in folders if not any(other in folder.parents for other in folders)}
    found = {str(path) for folder in outer for path in visible_files(folder) if is_image(path)}
    return sorted(found - named)
