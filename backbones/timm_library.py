"""The one door to timm, an optional extra."""

from types import ModuleType


def import_timm(wanted: str) -> ModuleType:
    """Import timm with its `utils`.

    Args:
        wanted: The setting that needs it, for the error.

    Raises:
        ImportError: timm is not installed.

    >>> import_timm("backbone=timm").is_model("resnet18")
    True
    """
    try:
        import timm
        import timm.utils
    except ImportError as error:
        raise ImportError(f"{wanted} needs timm; install it: uv pip install -e '.[timm]'") from error
    return timm
