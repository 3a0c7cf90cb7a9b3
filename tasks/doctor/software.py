"""Check Python and its packages: versions, whether torch and torchvision fit, the packages of each extra.

Packages other than the standard library are imported inside checks only, so that a broken one fails its check alone.
"""

import importlib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

from tasks.doctor.finding import FAILED, OK, WARNING, Check, Finding, reason
from tasks.values.machine import allowed_cores

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"  # of a repository; a wheel has metadata in its place
NAME = "mobile-dense"
PROVIDES = {
    "export": "tools/export.py", "openvino": "export=openvino", "qnn": "export=qnn",
    "timm": "backbone=timm", "shards": "action=shards, data=shards from a URL",
    "test": "make test", "dev": "ruff",
}  # fmt: skip


def install_command(extra: str = "") -> str:
    """Say how this toolkit is installed with an extra: from its repository, or from a wheel."""
    extra = f"[{extra}]" if extra else ""
    return (
        f"uv pip install -c constraints.txt -e '.{extra}'" if PROJECT.is_file() else f"uv pip install '{NAME}{extra}'"
    )


def _python(settings: Mapping[str, Any]) -> Iterator[Finding]:
    stated = PROJECT.read_text() if PROJECT.is_file() else str(metadata.metadata(NAME)["Requires-Python"])
    wanted = re.search(r'(?:requires-python = ">=|^>=)(\d+)\.(\d+)', stated)
    least = tuple(map(int, wanted.groups())) if wanted else (3, 11)
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < least:
        yield Finding("python", FAILED, found, f"make an environment with Python {least[0]}.{least[1]} or later")
    else:
        yield Finding("python", OK, f"{found}, {sys.executable}")


def requirements() -> dict[str, list[str]]:
    """Read {"": required packages, extra: its packages}, as pyproject.toml or the wheel's metadata writes each."""
    if PROJECT.is_file():
        import tomllib  # Python 3.11

        project = tomllib.loads(PROJECT.read_text())["project"]
        return {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {"": []}
    for line in metadata.requires(NAME) or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](.+?)['\"]", marker)
        found.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    return found


def satisfied(requirement: str) -> tuple[bool, str]:
    """Tell whether an installed package meets a requirement such as "torch>=2.14", and what was found."""
    name = re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0]
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, f"{name} is not installed"
    for sign, wanted in re.findall(r"(>=|==|<=|!=|>|<)\s*([\w.]+)", requirement[len(name) :]):
        have, need = (tuple(int(n) for n in re.findall(r"\d+", text.split("+")[0])[:4]) for text in (version, wanted))
        longest = max(len(have), len(need))
        have, need = (part + (0,) * (longest - len(part)) for part in (have, need))
        compare = {">=": have >= need, "==": have == need, "<=": have <= need, "!=": have != need, ">": have > need,
                   "<": have < need}  # fmt: skip
        if not compare[sign]:
            return False, f"{name} {version}, wanted {sign}{wanted}"
    return True, f"{name} {version}"


def _packages(settings: Mapping[str, Any]) -> Iterator[Finding]:
    for extra, wanted in requirements().items():
        found = [satisfied(one) for one in wanted]
        bad = [text for fits, text in found if not fits]
        label = f"extra {extra}" if extra else "required packages"
        if bad:
            state = WARNING if extra else FAILED
            what = f" (for {PROVIDES.get(extra, extra)})" if extra else ""
            yield Finding(label, state, ", ".join(bad) + what, install_command(extra))
        else:
            yield Finding(label, OK, ", ".join(text for _, text in found))


def _torch(settings: Mapping[str, Any]) -> Iterator[Finding]:
    pins = "-c constraints.txt " if PROJECT.is_file() else ""
    pair = f"install both from one index: uv pip install --reinstall {pins}torch torchvision"
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        yield Finding("torch", FAILED, reason(error), pair)
        return
    yield Finding("torch", OK, torch.__version__)
    try:
        vision = importlib.import_module("torchvision")
        kept = importlib.import_module("torchvision.ops").nms(
            torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]), torch.tensor([0.9, 0.8, 0.7]), 0.5
        )
        if kept.tolist() != [0, 2]:
            raise RuntimeError(f"torchvision.ops.nms kept boxes {kept.tolist()} instead of [0, 2]")
    except Exception as error:
        yield Finding("torchvision", FAILED, f"{reason(error)} (torch {torch.__version__})", pair)
        return
    builds = [version.partition("+")[2] for version in (torch.__version__, vision.__version__)]
    if all(builds) and builds[0] != builds[1]:
        yield Finding("torchvision", WARNING, f"{vision.__version__} beside torch {torch.__version__}", pair)
    else:
        yield Finding("torchvision", OK, f"{vision.__version__}, its operators run")


def _step(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Run one forward and backward pass, and write and read a JPEG."""
    torch = importlib.import_module("torch")
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.Hardswish())
    loss = layer(torch.rand(2, 3, 33, 33)).square().mean()
    loss.backward()
    if not torch.isfinite(layer[0].weight.grad).all():
        raise RuntimeError("a gradient of a small convolution is not finite")
    yield Finding("forward and backward", OK, f"a convolution of torch {torch.__version__} trains on the CPU")


def _jpeg(settings: Mapping[str, Any]) -> Iterator[Finding]:
    numpy, cv2 = importlib.import_module("numpy"), importlib.import_module("cv2")
    picture = numpy.full((32, 48, 3), 90, numpy.uint8)
    there, data = cv2.imencode(".jpg", picture)
    back = cv2.imdecode(data, cv2.IMREAD_COLOR) if there else None
    if back is None or abs(back.astype(int) - 90).max() > 4:
        raise RuntimeError("OpenCV does not read back a JPEG that it wrote")
    yield Finding("JPEG", OK, f"OpenCV {cv2.__version__} writes and reads")
    threads, cores = cv2.getNumThreads(), allowed_cores()
    text = f"{threads} on {cores} cores"
    if threads > cores:
        yield Finding("OpenCV threads", WARNING, text, f"set OPENCV_FOR_THREADS_NUM={cores}")
    else:
        yield Finding("OpenCV threads", OK, f"{text}; loader processes have one each")


def _formats(settings: Mapping[str, Any]) -> Iterator[Finding]:
    if not settings["formats"]:
        return
    from tasks.deploy.backend import BACKENDS, backend, extra_of

    for name in BACKENDS:
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                versions = backend(name).versions()
        except Exception as error:
            yield Finding(f"export={name}", WARNING, reason(error), install_command(extra_of(name)))
        else:
            yield Finding(f"export={name}", OK, ", ".join(f"{key} {value}" for key, value in versions.items()))


def _web(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Fetch the packages of the pages where that is asked for, and tell whether they are there."""
    from tasks.deploy.web.runtimes import FETCH, PACKAGES, cache_folder, fetch, missing, versions

    if settings["fetch"] not in (None, "web"):
        raise ValueError(f"fetch={settings['fetch']}: expected web")
    if settings["fetch"]:
        fetch()
    lacks = [lack for lack in map(missing, PACKAGES) if lack]
    if lacks:
        yield Finding("web pages", WARNING, "; ".join(lacks) + " (for target=web and export.demo=web)", FETCH)
    else:
        found = ", ".join(f"{name} {version}" for name, version in versions().items())
        yield Finding("web pages", OK, f"{found}, in {cache_folder()}")


def _demo(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Draw a few demo scenes and read them as a training does."""
    from tasks.data.demo import demo_data

    with tempfile.TemporaryDirectory(prefix="doctor-") as folder, redirect_stdout(StringIO()):
        data = demo_data(
            "segmentation",
            root=f"{folder}/demo",
            num_train=2,
            num_val=1,
            segmentation={"crop_size": [32, 64], "num_workers": 0, "batch_size": 2},
        )
        sample = data.dataset("train")[(0, 0)]
    yield Finding("demo data", OK, f"drawn and read: image {tuple(sample['image'].shape)}, {data.num_classes} classes")


CHECKS: dict[str, Check] = {
    "python": _python, "packages": _packages, "torch": _torch, "forward and backward": _step, "JPEG": _jpeg,
    "demo data": _demo, "export formats": _formats, "web pages": _web,
}  # fmt: skip
