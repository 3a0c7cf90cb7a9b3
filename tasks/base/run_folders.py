"""Sources that a command is given, and the folder beside them that its files go to."""

from pathlib import Path

from tasks.base.plain_config import Config, label


def output_folder(config: Config, default: str = "") -> Path:
    """Get `output_dir`, or a folder beside the checkpoint or artifact, or of weights; made where it is missing."""
    if artifact := config.get("artifact"):
        beside = Path(artifact) if Path(artifact).expanduser().is_dir() else Path(artifact).parent
    elif not config["checkpoint"]:
        beside = weights_folder(config)
    else:
        beside = Path(config["checkpoint"]).parent
    folder = Path(config["output_dir"] or beside / default).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def weights_folder(config: Config, what: str = "weights") -> Path:
    """Name the folder of what is made of weights that no run has left: runs/{what}-{task}-{backbone}."""
    return Path("runs") / "-".join([what, *(label(config, group) for group in ("task", "backbone"))])


def one_source(config: Config, *more: str) -> None:
    """Refuse more than one of a checkpoint, an artifact, and what else `more` names.

    Raises:
        ValueError: They are.
    """
    given = [key for key in ("checkpoint", "artifact", *more) if config[key]]
    if len(given) > 1:
        raise ValueError(f"{'= and '.join(given)}= are both given; give one of them")


def needed_checkpoint(config: Config) -> str:
    """Get the checkpoint of the configuration; `ValueError` where it is not given."""
    if not config["checkpoint"]:
        raise ValueError(
            "no checkpoint is given; give checkpoint=runs/<run>/best.ckpt, or task= backbone= and weights=torchvision"
        )
    return config["checkpoint"]
