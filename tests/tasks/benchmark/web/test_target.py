"""target=web from the command line's settings to the rows of the store, with devices that are no browsers."""

import threading
from functools import partial

import onnxruntime
import pytest

from tasks.benchmark.benchmark import benchmark
from tasks.benchmark.store import read_rows
from tasks.benchmark.web import target
from tasks.benchmark.web.target import run_on_web
from tasks.deploy.web import runtimes
from tests.tasks.benchmark.web.fake_device import ABOUT, FakeDevice
from tests.tasks.conftest import composed
from tests.tasks.deploy.onnx_artifacts import write_artifact

SETTINGS = ("target=web", "web.host=127.0.0.1", "web.timeout_s=10", "rounds=2", "runs=3", "warmup=2")


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A cache in which npm has put what the page consists of, as far as its names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    modules = runtimes.cache_folder() / "node_modules"
    for format, package in runtimes.PACKAGES.items():
        for file in runtimes._files(format).values():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
        (modules / package / "package.json").write_text(f'{{"version": "{runtimes.versions()[package]}"}}')
    return modules


def native(path, spec):
    """What opens an artifact in ONNX Runtime, as the browser would."""
    if spec["device"] == "webgpu":
        raise RuntimeError("this browser offers no WebGPU adapter")
    session = onnxruntime.InferenceSession(str(path / "model.onnx"))
    return lambda pixels: session.run([output["name"] for output in spec["outputs"]], {spec["input"]["name"]: pixels})


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Run target=web, with devices that open the page one after the other as soon as its address is shown."""

    def run(opened, *words, devices=({},), by=run_on_web):
        came = []

        def come(address):
            for options in devices:
                came.append(FakeDevice(address, opened, **options).run())

        def show(address):
            threading.Thread(target=come, args=(address,), daemon=True).start()

        monkeypatch.setattr(target, "show_address", show)
        config = composed("benchmark", *SETTINGS, f"output_dir={tmp_path / 'out'}", *words)
        found = by(config, tmp_path / "out")
        return found, read_rows(tmp_path / "out" / "benchmark.jsonl"), came

    return run


def test_measurements_land_in_the_store(tmp_path, fetched, measure):
    path = write_artifact(tmp_path / "artifact", "nms")
    ((title, _, lines),), rows, (device,) = measure(
        partial(native, path), f"artifact={path}", by=lambda config, _: benchmark(config)
    )
    assert [(row["runtime"], row["threads"]) for row in rows] == [
        ("onnx wasm", 1),
        ("onnx wasm", 2),
        ("onnx webgpu", 1),
    ]
    one, two, gpu = rows
    assert one["ms"]["trimmed"] == 1.0 and two["ms"]["trimmed"] == 2.0 and one["ms"]["count"] == 6
    assert one["target"] == "web" and one["machine"] == "Chrome 140, Linux, 2 cores" and one["environment"] == ABOUT
    assert one["versions"] == {"onnxruntime-web": "1.30.0"} and one["parity"]["same"]
    assert one["notes"] == ["1 thread", "same boxes as here: yes"]
    assert "ms" not in gpu and gpu["error"] == "this browser offers no WebGPU adapter"
    assert "Chrome 140" in title and len(lines) == 3
    assert device.table[0][1] == "1.0 ms (p90 1.0); same boxes as here: yes", "the page shows it as well"
    places = [place for place, job in enumerate(device.jobs) if job == "time"]
    assert len(places) == 2 * (2 + 2), "two warm-up calls and two rounds of each that runs"


def test_outputs_that_differ_are_told(tmp_path, fetched, measure):
    path = write_artifact(tmp_path / "artifact", "argmax")

    def wrong(spec):
        right = native(path, spec)
        return lambda pixels: [1 + right(pixels)[0]]

    _, (row,), _ = measure(wrong, f"artifact={path}", "web.backends=[wasm]", "web.threads=[1]")
    assert row["notes"][1] == "same masks as here: NO, 1 apart" and not row["parity"]["same"] and row["ms"]


def test_two_devices_have_rows_each(tmp_path, fetched, measure):
    path = write_artifact(tmp_path / "artifact", "logits")
    phone = ABOUT | {"agent": "Mozilla/5.0 (iPhone) Version/26.0 Safari/604", "cores": 6}
    words = (f"artifact={path}", "web.devices=2", "web.threads=[4]", "web.backends=[wasm]")
    _, rows, _ = measure(partial(native, path), *words, devices=({}, {"about": phone}))
    assert [(row["machine"], row["threads"]) for row in rows] == [
        ("Chrome 140, Linux, 2 cores", 2), ("Safari 26, iPhone, 6 cores", 4),
    ]  # fmt: skip


def test_a_page_closed_half_way_leaves_what_was_not_measured(tmp_path, fetched, measure):
    path = write_artifact(tmp_path / "artifact", "logits")
    words = (f"artifact={path}", "web.backends=[wasm]", "web.threads=[1]")
    _, rows, _ = measure(partial(native, path), *words, devices=({"leaves_at": "time"}, {}))
    assert [row.get("error") for row in rows] == [
        "the page was closed before the end; open the address again", None,
    ], "the address served a second time"  # fmt: skip


def test_what_cannot_be_served_is_refused(tmp_path, fetched, measure):
    path = write_artifact(tmp_path / "artifact", "logits")
    with pytest.raises(ValueError, match=r"target=web times artifacts; give artifact="):
        measure(None, "backbone=mnv3_small", "task=classification")
    with pytest.raises(ValueError, match=r"web.backends=webnn: expected some of wasm, webgpu"):
        measure(None, f"artifact={path}", "web.backends=[webnn]")
    with pytest.raises(ValueError, match=r"web.threads=\[0\]: expected numbers of at least 1"):
        measure(None, f"artifact={path}", "web.threads=[0]")
    with pytest.raises(ValueError, match=r"no device opened the page within web.timeout_s=0.2 seconds"):
        measure(None, f"artifact={path}", "web.timeout_s=0.2", devices=())
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"backend": "onnx"', '"backend": "pt2"'))
    with pytest.raises(ValueError, match=r"is made for pt2; a browser runs onnx, litert"):
        measure(None, f"artifact={path}")


def test_a_missing_cache_is_one_line_with_the_command(tmp_path, fetched, measure):
    path = write_artifact(tmp_path / "artifact", "logits")
    command = "type: python tools/doctor.py fetch=web"
    stated = fetched / "onnxruntime-web" / "package.json"
    stated.write_text('{"version": "1.2.3"}')
    with pytest.raises(FileNotFoundError, match=rf"^onnxruntime-web is 1.2.3, wanted 1.30.0; {command}$"):
        measure(None, f"artifact={path}")
    stated.unlink()
    with pytest.raises(FileNotFoundError, match=rf"^onnxruntime-web 1.30.0 is not fetched; {command}$"):
        measure(None, f"artifact={path}")


def test_the_metric_is_that_of_the_artifact_here(tmp_path, fetched, measure, masks_root):
    data = ("data=masks", f"data.root={masks_root}", "data.class_names=[a,b,c]", "data.num_workers=0")
    path = write_artifact(tmp_path / "artifact", "argmax", *data)
    words = (f"artifact={path}", "web.backends=[wasm]", "web.threads=[1]", "web.images=2")
    _, (row,), (device,) = measure(partial(native, path), *words)
    found = row["metric_there"]
    assert found["name"] == "val/mIoU" and 0 < found["value"] == found["here"] and found["images"] == 2
    assert row["notes"][-1].startswith("val/mIoU 0.") and device.jobs.count("run") == 1 + 2
    path = write_artifact(tmp_path / "other", "argmax", *data[:1], "data.root=nowhere", *data[2:])
    _, rows, _ = measure(partial(native, path), *words[1:], f"artifact={path}")
    assert rows[-1]["ms"] and rows[-1]["notes"][-1].startswith("no metric: "), "what was timed stays"
