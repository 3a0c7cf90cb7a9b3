"""The cache of npm's packages, and what says that something is missing."""

import json
import sys

import pytest

from tasks.deploy.export import export
from tasks.deploy.manifest import read_manifest
from tasks.deploy.web import runtimes
from tasks.deploy.web.page import PAGES, page_files, write_demo
from tasks.doctor.doctor import examine
from tests import browser
from tests.tasks.conftest import composed
from tests.tasks.deploy.onnx_artifacts import write_artifact

# Leaves what npm would; "fail" in its folder's package.json makes it fail
NPM = """#!{python}
import json, pathlib, sys
assert sys.argv[1:3] == ["ci", "--ignore-scripts"], sys.argv
wanted = json.loads(pathlib.Path("package.json").read_text())
locked = json.loads(pathlib.Path("package-lock.json").read_text())["packages"]
if pathlib.Path("fail").exists():
    sys.exit("npm error code EINTEGRITY")
for name, version in wanted["dependencies"].items():
    assert locked["node_modules/" + name]["integrity"].startswith("sha512-")
    folder = pathlib.Path("node_modules", name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps({{"version": version}}))
"""


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A script in npm's place, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "npm").write_text(NPM.format(python=sys.executable))
    (tmp_path / "bin" / "npm").chmod(0o755)
    return runtimes.cache_folder()


def fill() -> None:
    for format in runtimes.PACKAGES:
        for file in runtimes._files(format).values():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("content")


def web_finding(**settings):
    base = {"formats": False, "fetch": None, "output_dir": None, "adb": "adb", "shared_memory": "/dev/shm",
            "min_disk": 0, "min_memory": 0, "min_shared_memory": 0}  # fmt: skip
    return next(one for one in examine(base | settings) if one.check == "web pages")


def test_fetch_leaves_the_pinned_versions(npm):
    assert runtimes.missing("onnx") == "onnxruntime-web 1.30.0 is not fetched"
    runtimes.fetch()
    assert runtimes.missing("onnx").endswith("ort.wasm.min.mjs is missing"), "a package that is cut short"
    fill()
    assert not runtimes.missing("onnx") and not runtimes.missing("litert")
    assert runtimes.runtime_files("onnx")["ort/ort.wasm.min.mjs"].read_text() == "content"


def test_a_fetch_that_fails_is_told(npm, tmp_path):
    npm.mkdir(parents=True)
    (npm / "fail").touch()
    with pytest.raises(ValueError, match="ended with status 1: npm error code EINTEGRITY"):
        runtimes.fetch()
    (tmp_path / "bin" / "npm").unlink()
    with pytest.raises(FileNotFoundError, match=r"no npm on this machine; install Node\.js"):
        runtimes.fetch()


def test_the_doctor_tells_and_fetches(npm):
    found = web_finding()
    assert found.state == "warning" and "onnxruntime-web 1.30.0 is not fetched; @litertjs/core 2.5.3" in found.found
    assert found.remedy == "python tools/doctor.py fetch=web"
    assert web_finding(fetch="all").state == "failed" and "expected web" in web_finding(fetch="all").found
    assert web_finding(fetch="web").state == "warning", "the script's packages are empty"
    fill()
    assert web_finding().state == "ok"


def test_nothing_pinned_names_a_host():
    lock = (runtimes.PINNED / "package-lock.json").read_text()
    assert "://" not in lock and "resolved" not in lock
    assert all(version[0].isdigit() for version in runtimes.versions().values()), "exact versions"
    assert all("integrity" in one for name, one in json.loads(lock)["packages"].items() if name)


def test_a_page_has_no_configuration_and_all_its_files(npm, tmp_path):
    runtimes.fetch()
    fill()
    artifact = write_artifact(tmp_path / "artifact", "argmax")
    folder, manifest = read_manifest(artifact)
    write_demo(folder, manifest, tmp_path / "page")
    there = {str(path.relative_to(tmp_path / "page")) for path in (tmp_path / "page").rglob("*") if path.is_file()}
    assert {"index.html", "demo.json", "model.onnx", "ort/ort-wasm-simd-threaded.wasm"} <= there
    assert not any(name.startswith("litert/") for name in there), "an ONNX artifact needs no other runtime"
    told = json.loads((tmp_path / "page" / "demo.json").read_text())
    assert "config" not in told and told["classes"]["names"] == ["a", "b", "c"] and told["output"] == "argmax"
    for page in PAGES:
        assert all(file.is_file() for file in page_files(page, ["onnx", "litert"]).values())


def test_what_has_no_page_is_refused(npm, tmp_path):
    _, manifest = read_manifest(write_artifact(tmp_path / "artifact", "argmax"))
    with pytest.raises(FileNotFoundError, match=r"is not fetched; type: python tools/doctor\.py fetch=web"):
        write_demo(tmp_path, manifest, tmp_path / "page")
    manifest.backend = "ncnn"
    with pytest.raises(ValueError, match="no browser runs ncnn; export=onnx or litert has a page"):
        write_demo(tmp_path, manifest, tmp_path / "page")
    manifest.backend, manifest.kind = "onnx", "depth"
    with pytest.raises(ValueError, match="the page shows classification, detection, segmentation, not depth"):
        write_demo(tmp_path, manifest, tmp_path / "page")
    with pytest.raises(ValueError, match=r"export\.demo=app: expected web"):
        export(composed("export", "export.demo=app", "checkpoint=x"))


def test_tests_in_a_browser_fail_where_it_is_missing(npm):
    with pytest.raises(RuntimeError, match=r"is not fetched; .* there is none of chromium, .*; install Chromium"):
        browser.needed()
