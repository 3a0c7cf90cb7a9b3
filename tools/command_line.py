"""The command line by Hydra's own grammar; what the grammar refuses is named and shown as a shell takes it."""

import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

_COMPOSES = "_load_configuration_impl"  # Hydra's function that composes, then applies overrides
_UNKNOWN = re.compile(r"Could not override '([^']+)'")
_PARTS = re.compile(r"\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'|[\[\]{},:]|[^\[\]{},:]+")  # of a list or dictionary


class CommandLine:
    """What stands behind the name of a tool.

    Args:
        words: Arguments as a shell hands them over.

    Attributes:
        overrides: Those that set something.
        multirun: Is it a sweep (-m)?
        config_dir: A folder of further configurations (--config-dir), or None.
        help: Is --help among them?
        plain: Are there overrides alone, none of them of Hydra's own settings?

    Raises:
        ValueError: Hydra's grammar refuses one; the message names its key and shows the quotes that it needs.
    """

    def __init__(self, words: list[str]) -> None:
        given = get_args_parser().parse_known_args(words)[0]
        self.overrides: list[Override] = [_parsed(word) for word in given.overrides]
        self.multirun: bool = given.multirun
        self.config_dir: str | None = given.config_dir
        self.help: bool = given.help
        options = {key: value for key, value in vars(given).items() if key != "overrides"}
        self.plain = not any(options.values()) and not any(
            one.key_or_group.startswith("hydra") for one in self.overrides
        )

    def values(self) -> dict[str, Any]:
        """Every key or group that is set and its value, that of the first job in a sweep; interpolations resolved."""
        chosen = {one.key_or_group: self._value(one) for one in self.overrides if not one.is_delete()}
        known = OmegaConf.create()
        for key, value in chosen.items():
            if "." not in key and "/" not in key:
                known[key] = value
        return chosen | OmegaConf.to_container(known) | {
            key: _resolved(known, key) for key in known if isinstance(chosen[key], str)
        }  # fmt: skip

    def words_of(self, key: str) -> list[str]:
        """The arguments that set a key or group."""
        return [one.input_line for one in self.overrides if one.key_or_group == key]

    def _value(self, override: Override) -> Any:
        if self.multirun and override.is_discrete_sweep():
            first = next(iter(override.sweep_string_iterator()))
            return _parsed(f"{override.key_or_group}={first}").value()
        return None if override.is_sweep_override() else override.value()


def composed_as_far_as_possible(
    words: list[str], primary: str | None, conf: Path, unknown: Collection[str] = ()
) -> DictConfig:
    """The configuration that a command line gives without the overrides that nothing takes.

    Args:
        words: Arguments as a shell hands them over.
        primary: Name of the primary configuration.
        conf: Folder of our configurations; those in --config-dir come first.
        unknown: Keys of which it is known that nothing takes them.
    """
    given = get_args_parser().parse_known_args(words)[0]
    overrides = [word for word in given.overrides if "=" in word and _key(word) not in unknown]
    with opened(conf, given.config_dir):
        while True:
            try:
                return hydra.compose(primary, overrides)
            except HydraException as error:
                found = _UNKNOWN.search(str(error))
                kept = [word for word in overrides if found and _key(word) != found[1]]
                if len(kept) == len(overrides) or not found:
                    return OmegaConf.create()
                overrides = kept


def composed_before(error: BaseException) -> DictConfig | None:
    """The configuration that Hydra had composed when one of its overrides failed, out of the frames of the error.

    Composing it again would take as long as composing it did. None where the error comes from elsewhere.
    """
    places = (frame.f_locals for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name == _COMPOSES)
    config = next(places, {}).get("cfg")
    return config and OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


def run_once(primary: str, words: list[str], job: Callable[[DictConfig], Any], conf: Path) -> None:
    """Run a job as `hydra.main` does for a plain command line, which it composes twice."""
    with opened(conf, None):
        GlobalHydra.instance().hydra.run(primary, job, words)


@contextmanager
def opened(conf: Path, config_dir: str | None) -> Iterator[None]:
    """Let `hydra.compose` read our configurations and, before them, those in a folder of the user's own.

    A Hydra that runs already, such as that of a program around us, is put back at the end.

    Raises:
        ValueError: There is no such folder.
    """
    path = create_config_search_path(str(conf))
    if config_dir:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise ValueError(f"--config-dir {config_dir}: there is no such folder")
        path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    running = GlobalHydra.instance()
    before, running.hydra = running.hydra, None
    try:
        Hydra.create_main_hydra2("mobile-dense", path)
        yield
    finally:
        running.hydra = before


def override_of(key: str, value: Any) -> str:
    """Write key=value as Hydra's grammar takes it, whatever the Python value.

    >>> override_of("data.crop_size", (64, 128)), override_of("data.root", "a b, c"), override_of("qat", None)
    ('data.crop_size=[64,128]', 'data.root="a b, c"', 'qat=null')
    """
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value  # of numpy and torch
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}: {_literal(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_literal, value)) + "]"
    return repr(value) if isinstance(value, int | float) else _in_quotes(str(value))


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, _, value = word.partition("=")
        if not value:
            raise ValueError(f"{word}: expected key=value") from error
        quoted = f"{key}={_quoted(value)}"
        if _is_taken(quoted):
            remedy = f"quotes, within those of the shell: {shlex.quote(quoted)}"
        else:
            remedy = "quotes around the texts in it"
        raise ValueError(f"{word}: Hydra's grammar does not take this value; it needs {remedy}") from error


def _quoted(value: str) -> str:
    """A value in Hydra's quotes; of a list or dictionary each text that needs them."""
    if value[0] not in "[{" or value[-1] not in "]}":
        return _in_quotes(value)
    return "".join(
        part if part[0] in "[]{},:\"'" or _is_taken(f"x={part.strip()}") else _quoted(part.strip())
        for part in _PARTS.findall(value)
    )


def _in_quotes(text: str) -> str:
    return '"' + re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", text)) + '"'


def _is_taken(word: str) -> bool:
    try:
        return not OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return False


def _resolved(values: DictConfig, key: str) -> str | None:
    return OmegaConf.select(values, key, throw_on_missing=False)
