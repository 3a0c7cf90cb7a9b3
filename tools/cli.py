"""From a command line to a configuration: Hydra's, or a checkpoint's own; bad input fails in a line or two."""

import difflib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tasks.checkpoint import read_checkpoint
from tasks.config import SCHEMAS
from tasks.deploy.manifest import read_manifest
from tasks.inference_settings import inference_settings

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PEER_LOST = re.compile("(closed|reset) by peer")  # what a process hears of one that it exchanges tensors with
EXPECTED = (
    ValueError, OSError, LookupError, ImportError, FloatingPointError, OmegaConfBaseException, HydraException,
    MisconfigurationException,
)  # fmt: skip
GROUPS = tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir()))


def main(name: str, job: Callable[[DictConfig], None]) -> None:
    """Compose conf/{name}.yaml, or the configuration in `checkpoint=`, with the command line, and run the job.

    Args:
        name: Of the tool.
        job: Gets the configuration.

    Raises:
        SystemExit: Status 1, after one or two lines on stderr, on bad input. With MOBILE_DENSE_TRACEBACK=1 the error
            itself.
    """
    store = ConfigStore.instance()
    for schema, cls in SCHEMAS.items():
        store.store(schema, cls)

    def run(config: DictConfig) -> None:
        chosen = HydraConfig.get().runtime.choices
        config.choices = dict(config.choices) | {group: chosen[group] for group in GROUPS if chosen.get(group)}
        guarded(lambda: job(config))

    given = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    values = dict(argument.split("=", 1) for argument in given)
    if name == "evaluate" and "predictions" in values and not {"task", "experiment", "checkpoint"} & values.keys():
        sys.argv.append("task=detection")  # they are boxes; a task has a place for the data
    if any(values.get(key, "null") not in ("null", "") for key in ("checkpoint", "artifact")):
        name = guarded(lambda: _store_checkpoint(store, name, values))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to `guarded`
    guarded(hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(run), name)


def guarded(job: Callable, primary: str | None = None):
    """Run a job; turn what a user can mend into a short message and exit status 1.

    Args:
        job: Takes nothing.
        primary: Name of the primary configuration, for hints about misspelt keys.
    """
    try:
        return job()
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("MOBILE_DENSE_TRACEBACK"):
            raise
        print(f"error: {message(error, primary)}", file=sys.stderr)
        if not isinstance(error, EXPECTED) and not PEER_LOST.search(str(error)):
            with tempfile.NamedTemporaryFile("w", prefix="mobile-dense-", suffix=".txt", delete=False) as file:
                traceback.print_exc(file=file)
            print(f"({type(error).__name__}; its traceback is in {file.name})", file=sys.stderr)
        sys.exit(1)


def message(error: BaseException, primary: str | None = None) -> str:
    """What an error says in a line or two, without the traceback that a loader process puts around it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if PEER_LOST.search(text):
        return "another process of this run has died; its own error, if it could say one, is among these lines"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        close = difflib.get_close_matches(name, error.options, n=2)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return f"{group}={name}: there is no such {group}; {hint}choose one of {', '.join(error.options)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set; give {error.full_key}=<value>"
    if unknown := re.match(r"Could not override '([\w./@]+)'", text):
        return _unknown_key(unknown[1], primary)
    if "Original Traceback" in text:
        text = re.split(r"\n[\w.]+: ", text)[-1]
    return " ".join(text.split("\n\n")[0].split()[:60]) or type(error).__name__


def _unknown_key(key: str, primary: str | None) -> str:
    """Name the misspelt key and those that it may have meant."""
    parent, _, leaf = key.rpartition(".")
    config = _composed_without(key, primary)
    if key in GROUPS and "task" in config and not config.task:
        return f"{key}= goes with a task, and none is chosen; give task=<name>"
    siblings = list(OmegaConf.select(config, parent) or {}) if parent else sorted({*map(str, config), *GROUPS})
    close = difflib.get_close_matches(leaf, [str(name) for name in siblings], n=3)
    where = f" in {parent}" if parent else ""
    remedy = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(map(str, siblings)) or 'none'}"
    return f"{key}=: no key {leaf}{where}; {remedy}"


def _composed_without(key: str, primary: str | None) -> DictConfig:
    """The configuration that the command line gives when one key's override is left out."""
    overrides = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith(("-", key))]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return hydra.compose(primary, overrides)
        except HydraException:
            return OmegaConf.create()


def _store_checkpoint(store: ConfigStore, name: str, values: dict[str, str]) -> str:
    """Register the configuration of `checkpoint=` or `artifact=` as a primary one; the command line then changes it."""
    source = values.get("checkpoint") or values["artifact"]
    stored = read_checkpoint(source)["config"] if values.get("checkpoint") else read_manifest(source)[1].config
    chosen = stored.get("choices", {})
    primary = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    given = {*stored, "experiment"}  # a choice of the tool's own would leave its keys among the stored ones
    defaults = [entry for entry in primary.pop("defaults") if isinstance(entry, str) or not given & entry.keys()]
    for group in GROUPS:
        if group not in values or group not in given:
            continue
        if group == "data" and name != "train":
            stored = stored | {"data": None}
            defaults.append({"data": None})
        elif values[group] == chosen.get(group):
            sys.argv.remove(f"{group}={values[group]}")
        else:
            remedy = "; a new run starts from its weights with backbone.weights=" if name == "train" else ""
            raise ValueError(
                f"{group}={values[group]}: {source} was trained with {group}={chosen.get(group)}, which stays{remedy}"
            )
    if name != "train":
        stored["trainer"] = inference_settings(stored["trainer"])
    own = {"checkpoint": None, "output_dir": None, "overwrite": False}
    store.store("from_checkpoint", OmegaConf.create({**primary, "defaults": defaults, **stored, **own}))
    return "from_checkpoint"
