"""Decide which modules may become int8, and check calibration data; the same for all formats."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

# What lies deeper than these may become int8. What they, the network or the deployable compute themselves are the
# tails: normalisation, merging of predictions, upsampling, softmax, box decoding, NMS.
QUANTIZED = ("network.backbone.", "network.head.")


def is_quantizable(modules: Iterable[str]) -> bool:
    """Tell whether an operator inside these modules of the deployable may become int8."""
    return any(name.startswith(QUANTIZED) for name in modules)


def is_within(modules: Iterable[str], parts: Iterable[str]) -> bool:
    """Tell whether one of the modules is one of `parts` or inside one."""
    return any(name == part or name.startswith(f"{part}.") for name in modules for part in parts)


def modules_around(name: str) -> list[str]:
    """List the modules that a module is in, from the outermost, and itself.

    >>> modules_around("network.head.conv")
    ['network', 'network.head', 'network.head.conv']
    """
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def check_calibration(
    model: nn.Module, example: Tensor, calibration: Sequence[Tensor], keep_float: Sequence[str]
) -> None:
    """Check that a network can be quantized with these settings.

    Args:
        model: Network to export.
        example: Input of the artifact.
        calibration: Batches like `example`.
        keep_float: Names of modules that stay in floating point.

    Raises:
        ValueError: There are no calibration images, their shape or type differs from the example's, or a name in
            `keep_float` is not a module.
    """
    if not calibration:
        raise ValueError("int8 takes its ranges from calibration images, and there are none; give at least one batch")
    for images in calibration:
        if images.shape != example.shape or images.dtype != example.dtype:
            raise ValueError(
                f"calibration images of {tuple(images.shape)} {images.dtype}, but the artifact takes "
                f"{tuple(example.shape)} {example.dtype}; calibrate with what it takes"
            )
    check_names(model, keep_float)


def check_names(model: nn.Module, keep_float: Sequence[str]) -> None:
    """Check that the names are modules of the network.

    Raises:
        ValueError: A name is not.
    """
    names = {name for name, _ in model.named_modules()}
    for name in keep_float:
        if name not in names:
            below = [other for other in sorted(names) if other.startswith("network") and other.count(".") <= 2][:8]
            raise ValueError(f"keep_float={name}: the network has no such module; it has {', '.join(below)}, ...")
