"""Where the files of a command go, beside the checkpoint or artifact that it is given."""

from pathlib import Path

from tasks.base.build import Config


def output_folder(config: Config, default: str = "") -> Path:
    """`output_dir`, or a folder beside the checkpoint or artifact; made where it is missing."""
    if artifact := config.get("artifact"):
        beside = Path(artifact) if Path(artifact).expanduser().is_dir() else Path(artifact).parent
    else:
        beside = Path(config["checkpoint"]).parent
    folder = Path(config["output_dir"] or beside / default).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def one_source(config: Config, *more: str) -> None:
    """See that not both a checkpoint and an artifact are given, nor what else `more` names.

    Raises:
        ValueError: They are.
    """
    given = [key for key in ("checkpoint", "artifact", *more) if config[key]]
    if len(given) > 1:
        raise ValueError(f"{'= and '.join(given)}= are both given; give one of them")


def needed_checkpoint(config: Config) -> str:
    """The checkpoint of the configuration; an error where none is given."""
    if not config["checkpoint"]:
        raise ValueError("no checkpoint is given; give checkpoint=runs/<run>/best.ckpt")
    return config["checkpoint"]
