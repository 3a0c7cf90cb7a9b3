"""What a user of tools/benchmark.py sees."""

import json

import pytest

QUICK = "image_size=64 backbone.width=0.25 rounds=2 runs=2 warmup=1"


@pytest.mark.slow
def test_one_run_and_then_a_sweep_of_processes(run_tool, tmp_path):
    command = f"tools/benchmark.py backbone=mnv3_small task=classification {QUICK} runtimes=[eager,fused]"
    status, out, err = run_tool(command)
    assert status == 0, err
    assert "mnv3_small + linear, pixels to logits, 64x64 px, batch 1, threads 1" in out and "1.00x" in out
    assert {path.name for path in tmp_path.iterdir()} == {"benchmarks"}, "nothing else is left lying about"
    sweep = f"tools/benchmark.py sweep.backbone=[mnv3_small] sweep.task=[detection] {QUICK} sweep.runtimes=[fused]"
    status, out, err = run_tool(f"{sweep} num_classes=3 output_dir=zoo")
    assert status == 0, err
    content = json.loads((tmp_path / "zoo/zoo.json").read_text())
    assert [(row["task"], row["ms"]["count"], row["score"]["value"]) for row in content["rows"]] == [
        ("detection", 4, 67.4)
    ]
    assert "detection: ms at 64x64 px" in out
    assert len((tmp_path / "zoo/benchmark.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("task=classification runtimes=[tensorrt]", "runtimes=tensorrt: expected some of eager"),
        ("task=classification image_sise=64", "no key image_sise; did you mean image_size?"),
        ("artifact=absent", "no manifest.json at"),
        ("sweep=all", "sweep=all: expected zoo"),
        ("sweep.backbon=[mnv2]", "no key backbon in sweep; did you mean backbone"),
        ("target=android runtimes=[eager]", "target=android times artifacts; give artifact="),
    ],
)
def test_bad_input_is_one_line_that_names_it(run_tool, command, message):
    status, out, err = run_tool(f"tools/benchmark.py {command}")
    assert status == 1
    assert message in err.splitlines()[-1], err
    assert len([line for line in err.splitlines() if line.strip()]) == 1 and "Traceback" not in out + err


def test_help_names_the_keys(run_tool):
    status, out, _ = run_tool("tools/benchmark.py --help")
    assert status == 0 and "sweep=zoo" in out and "target=android" in out
