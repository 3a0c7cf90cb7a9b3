"""Measure a data set: how often each class occurs, how large images and boxes are, what pixels look like."""

from collections import Counter
from typing import Any

import numpy as np

from tasks.base.tables import Table
from tasks.data.datamodule import VisionDataModule
from tasks.inspection.check import each
from tasks.values.counted import counted

SAMPLED = 500  # images whose pixels are measured, spread evenly
SHOWN_CLASSES = 12  # most frequent and rarest ones in a table; the report has all
LOG_OFFSET = 1.02  # of ENet's weights


def measure_split(data: VisionDataModule, split: str) -> dict[str, Any]:
    """Count and measure a split.

    Args:
        data: The data module.
        split: "train" or "val".

    Returns:
        {"images", "unit" ("px", "boxes", "images"), "classes": {name: {unit: number, "images": number}},
        "image_sizes": {"HxW": number}, "pixels": {"images", "mean", "std"} of each channel in 0..1 over a sample}, of
        masks "ignored" px, and of boxes "boxes": as `box_statistics`.

    Raises:
        DataError: As raised by the data.
    """
    dataset = data.whole_dataset(split)
    names, count = data.classes.names, len(dataset)
    masks = dataset.truth_in_files
    step = 1 if masks else max(1, count // SAMPLED)
    chosen, measured = range(0, count, step), max(1, count // SAMPLED)

    def look(number: int) -> tuple:
        image, *truth = dataset.read(chosen[number])
        counts = dataset.inspected(chosen[number], image, *truth).pixels if masks else None
        pixels = image.reshape(-1, image.shape[2]) if number % measured == 0 or not masks else None
        sums = (0, 0.0, 0.0) if pixels is None else _sums(pixels, data.pixels.white)
        return image.shape[:2], counts, sums

    sizes, rows, sums = zip(*each(look, len(chosen), f"measuring {split}"), strict=True)
    number, total, squares = (sum(column) for column in zip(*sums, strict=True))
    mean = total / number
    sampled = sum(1 for one in sums if one[0])
    report: dict[str, Any] = {"images": count, **dataset.statistics(names, rows if masks else ())}
    counted_sizes = Counter(dataset.image_sizes() or sizes).most_common()
    report["image_sizes"] = {f"{h}x{w}": n for (h, w), n in counted_sizes}
    deviation = np.sqrt(np.maximum(squares / number - mean**2, 0))
    digits = 4 if data.pixels.is_rgb else 6  # sensors may use a small part of 16 bits
    values = {"mean": np.round(mean, digits).tolist(), "std": np.round(deviation, digits).tolist()}
    report["pixels"] = {"images": sampled, **values}
    return report


def class_weights(report: dict[str, Any]) -> dict[str, list[float]]:
    """Compute class weights for the loss by two rules; 1.0 for a class that does not occur.

    "median_frequency": the median frequency over the class's own, of the px of the images that show it (of images: of
    all); its mean loss is then the same for each class. "inverse_log": 1 / ln(1.02 + share), between 1.4 and 50.

    Args:
        report: From `measure_split`.

    Source: Eigen and Fergus 2015, "Predicting Depth, Surface Normals and Semantic Labels", section 6.3.2;
    Paszke et al. 2016, "ENet", section 5.2.
    """
    rows, unit = report["classes"].values(), report["unit"]
    counts = np.array([row[unit] for row in rows], float)
    seen = np.array([row.get("px of those images", 1) for row in rows], float)
    there, share = counts > 0, counts / max(1.0, counts.sum())
    frequency = np.divide(counts, seen, out=np.zeros(len(counts)), where=there & (seen > 0))
    median = np.median(frequency[there]) if there.any() else 1.0
    by_median = np.divide(median, frequency, out=np.ones(len(counts)), where=there)
    by_log = np.where(there, 1 / np.log(LOG_OFFSET + share), 1.0)
    return {name: [round(float(v), 4) for v in values] for name, values in
            (("median_frequency", by_median), ("inverse_log", by_log))}  # fmt: skip


def weight_overrides(report: dict[str, Any]) -> dict[str, str]:
    """Write class weights as overrides to paste, {rule: override}."""
    return {rule: "task.class_weights=[" + ",".join(f"{v:g}" for v in values) + "]"
            for rule, values in class_weights(report).items()}  # fmt: skip


def pixel_overrides(report: dict[str, Any]) -> str:
    """Write mean and std of the channels as overrides to paste."""
    return " ".join(f"pixels.{key}=[{','.join(f'{v:g}' for v in report['pixels'][key])}]" for key in ("mean", "std"))


def stats_tables(split: str, report: dict[str, Any]) -> list[Table]:
    """Lay a report of `measure_split` out in tables."""
    unit = report["unit"]
    total = max(1, sum(row[unit] for row in report["classes"].values()))
    rows = [(name, f"{row[unit]:,}", f"{100 * row[unit] / total:.2f}", row["images"])
            for name, row in sorted(report["classes"].items(), key=lambda item: -item[1][unit])]  # fmt: skip
    if len(rows) > 2 * SHOWN_CLASSES:
        left_out = (f"... {counted(len(rows) - 2 * SHOWN_CLASSES, 'more class', 'more classes')}", "", "", "")
        rows = [*rows[:SHOWN_CLASSES], left_out, *rows[-SHOWN_CLASSES:]]
    tables: list[Table] = [(f"classes of {split}", ("class", unit, "% of all", "images that show it"), rows)]
    general = [("images", report["images"]), ("image sizes (H x W px), the most frequent", ", ".join(
        f"{size}: {count}" for size, count in list(report["image_sizes"].items())[:4]))]  # fmt: skip
    if "ignored" in report:
        general.append(("ignored px", f"{100 * report['ignored'] / max(1, total + report['ignored']):.2f} %"))
    pixels = report["pixels"]
    seen = counted(pixels["images"], "image")
    general += [
        (f"{key} of {'RGB' if len(pixels[key]) == 3 else 'each channel'} in 0..1, {seen}",
         ", ".join(f"{v:.3f}" for v in pixels[key]))
        for key in ("mean", "std")
    ]  # fmt: skip
    for key, value in report.get("boxes", {}).items():
        text = ", ".join(f"{k}: {v:.3g}" if isinstance(v, float) else f"{k}: {v}" for k, v in value.items()) if (
            isinstance(value, dict)) else value  # fmt: skip
        label = {"number": "boxes", "side": "box side, px (quantiles)", "ratio": "box width / height (quantiles)",
                 "sizes": "box sizes as COCO counts them", "an image": "boxes an image (quantiles)",
                 "images without": "images without boxes"}.get(key, key)  # fmt: skip
        general.append((label, text))
    return [*tables, (f"{split} in numbers", ("what", "value"), [(key, str(value)) for key, value in general])]


def _sums(pixels: np.ndarray, white: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of pixels, sum and sum of squares of each channel in 0..1, from counts of the values."""
    counts = np.stack([np.bincount(pixels[:, channel], minlength=white + 1) for channel in range(pixels.shape[1])])
    values = np.arange(white + 1) / white
    return len(pixels), counts @ values, counts @ values**2
