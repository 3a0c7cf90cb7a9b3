"""target=web in headless Chromium: measurements, a second device, a page closed half-way, WebGPU refused."""

import threading

import pytest

from tasks.benchmark.store import read_rows
from tasks.benchmark.web import server, target
from tasks.benchmark.web.target import run_on_web
from tests.browser import SOFTWARE_GPU, Chromium
from tests.tasks.conftest import composed
from tests.tasks.deploy.onnx_artifacts import write_artifact

pytestmark = pytest.mark.browser
SETTINGS = ("target=web", "web.host=127.0.0.1", "web.timeout_s=120", "rounds=2", "runs=3", "warmup=2")
DONE = "document.body.dataset.state === 'done'"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("artifacts") / "classifier", "logits")


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Run target=web in a thread: (address, a function that gives the rows once it has ended)."""

    def start(*words):
        shown, address, results = threading.Event(), [], []
        monkeypatch.setattr(target, "show_address", lambda found: (address.append(found), shown.set()))
        config = composed("benchmark", *SETTINGS, *words, f"output_dir={tmp_path}")
        thread = threading.Thread(target=lambda: results.append(run_on_web(config, tmp_path)), daemon=True)
        thread.start()
        assert shown.wait(60)

        def ended():
            thread.join(120)
            assert results, "it does not end"
            return read_rows(tmp_path / "benchmark.jsonl")

        return address[0], ended

    return start


@pytest.fixture
def browser(tmp_path):
    """Start a browser with flags; several a test."""
    running = []

    def start(*flags):
        running.append(Chromium(tmp_path / f"profile-{len(running)}", *flags))
        return running[-1]

    yield start
    for one in running:
        one.end()


def test_measurements_land_in_the_store(serve, browser, artifact):
    address, ended = serve(f"artifact={artifact}", "web.threads=[1,2]")
    page = browser()
    page.open(address)
    page.until(DONE)
    said = page.run("return [...document.querySelectorAll('td')].map((cell) => cell.textContent)")
    one, two, gpu = rows = ended()
    assert [row["runtime"] for row in rows] == ["onnx wasm", "onnx wasm", "onnx webgpu"]
    assert one["parity"]["same"] and one["ms"]["count"] == 6 and 0 < one["ms"]["min"] <= one["ms"]["p90"]
    assert one["environment"]["isolated"] and (two["threads"] == 2 or one["environment"]["cores"] == 1)
    assert one["machine"].startswith("Chrome ") and "HeadlessChrome" in one["environment"]["agent"]
    assert gpu["error"] == "this browser offers no WebGPU adapter"
    assert len(said) == 6 and "same scores as here: yes" in said[1]


def test_webgpu_in_software(serve, browser, artifact):
    address, ended = serve(f"artifact={artifact}", "web.backends=[webgpu]")
    page = browser(*SOFTWARE_GPU)
    page.open(address)
    page.until(DONE)
    (row,) = ended()
    assert row["parity"]["same"] and row["ms"] and "swiftshader" in row["notes"][0]


def test_two_devices_and_a_page_closed_half_way(serve, browser, artifact):
    words = ("web.devices=2", "web.backends=[wasm]", "web.threads=[1]", "runs=40", "rounds=20")
    address, ended = serve(f"artifact={artifact}", *words)
    first, second = browser(), browser()
    first.open(address)
    first.until("document.getElementById('step').textContent.startsWith('timing')")
    first.close_page()
    for page in (second, second):
        page.open(address)
        page.until(DONE)
    closed, *measured = ended()
    assert closed["error"] == "the page was closed before the end; open the address again" and "ms" not in closed
    assert len(measured) == 2 and all(row["ms"]["count"] == 800 for row in measured)


def test_without_isolation_threads_are_refused_and_said(serve, browser, artifact, monkeypatch):
    monkeypatch.setitem(server.HEADERS, "Cross-Origin-Embedder-Policy", "unsafe-none")
    address, ended = serve(f"artifact={artifact}", "web.threads=[1,2]", "web.backends=[wasm]")
    page = browser()
    page.open(address)
    page.until(DONE)
    one, two = ended()
    assert one["ms"] and two["error"].startswith("this page has no threads")
    assert page.run("return document.getElementById('about').textContent").startswith("no threads")


def test_an_artifact_that_the_runtime_refuses(serve, browser, artifact):
    address, ended = serve(f"artifact={artifact}", "web.backends=[wasm]", "web.threads=[1]")
    (artifact / "model.onnx").rename(artifact / "kept")
    (artifact / "model.onnx").write_bytes(b"no model")
    page = browser()
    page.open(address)
    page.until(DONE)
    (artifact / "kept").rename(artifact / "model.onnx")
    (row,) = ended()
    assert "ms" not in row and "protobuf" in row["error"].lower()


def test_another_token_opens_nothing(serve, browser, artifact):
    address, ended = serve(f"artifact={artifact}", "web.backends=[wasm]", "web.threads=[1]")
    page = browser()
    page.open(address.rstrip("/")[:-1] + "/")
    assert page.run("return document.body.textContent") == "the address has another token"
    page.open(address)
    page.until(DONE)
    assert len(ended()) == 1
