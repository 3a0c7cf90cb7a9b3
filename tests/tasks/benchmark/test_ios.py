"""The package with its steps goes out; numbers that somebody read off Xcode's report come back."""

import json

import pytest

from tasks.benchmark.benchmark import benchmark
from tasks.benchmark.ios import read_report
from tests.tasks.benchmark.test_android import artifact
from tests.tasks.conftest import composed


def test_ios_gets_the_package_with_steps_and_its_numbers_come_back(tmp_path):
    place = artifact(tmp_path / "coreml", "coreml")
    keys = ("benchmark", "target=ios", f"artifact={place}", f"output_dir={tmp_path / 'out'}")
    benchmark(composed(*keys))
    steps = (tmp_path / "out/ios/STEPS.md").read_text()
    assert "model.bin" in steps and "224x320 px" in steps and (tmp_path / "out/ios/model.bin").is_file()
    report = tmp_path / "report.json"
    report.write_text('{"device": "iPhone 15", "median_ms": 1.25, "max_ms": 2, "compute_units": "all"}')
    (_title, columns, lines), *_ = benchmark(composed(*keys, f"ios_report={report}"))
    assert lines[0][columns.index("ms")] == "1.25" and lines[0][columns.index("max")] == "2.00"
    (row,) = json.loads((tmp_path / "out/benchmark.json").read_text())["rows"]
    assert (row["machine"], row["target"], row["protocol"]) == ("iPhone 15", "ios", {"xcode": "all"})


def test_reports_that_cannot_be_read_say_what_is_expected(tmp_path):
    (tmp_path / "a.json").write_text('{"device": "iPhone"}')
    (tmp_path / "b.json").write_text('{"median_ms": -1}')
    (tmp_path / "c.mlperf").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="no report at"):
        read_report(tmp_path / "absent.json")
    for name, message in (("a.json", '"median_ms": 1.23'), ("b.json", "expected milliseconds"), ("c.mlperf", "format")):
        with pytest.raises(ValueError, match=message):
            read_report(tmp_path / name)
    place = artifact(tmp_path / "tflite", "litert")
    with pytest.raises(ValueError, match="made for litert; target=ios takes what export=coreml wrote"):
        benchmark(composed("benchmark", "target=ios", f"artifact={place}", f"output_dir={tmp_path / 'o'}"))
