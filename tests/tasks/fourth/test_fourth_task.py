"""A task from a folder outside the packages goes through every tool: nothing asks which of three tasks it is."""

import json

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT

HERE = ROOT / "tests" / "tasks" / "fourth"


def test_the_room_of_a_task_is_small():
    assert len((HERE / "regression.py").read_text().splitlines()) < 150


@pytest.mark.long
def test_a_fourth_task_goes_through_every_tool(run_tool, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILE_DENSE_TRUSTED", "tests")
    chosen = f"--config-dir={HERE / 'conf'} task=regression backbone=snv2_050"

    def done(command: str) -> str:
        status, out, err = run_tool(command)
        assert status == 0, out + err
        return out

    for action in ("check", "stats", "preview"):
        said = done(f"tools/data.py {chosen} action={action} output_dir={action}")
        assert "class_weights" not in said, "its loss takes none"
    done(f"tools/train.py {chosen} trainer.max_epochs=3 trainer.accelerator=cpu tensorboard=false output_dir=run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    done("tools/evaluate.py checkpoint=run/last.ckpt output_dir=evaluation")
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert found["val/accuracy"] == pytest.approx(metrics["val/accuracy"]) and found["images"] == 4
    done("tools/export.py checkpoint=run/last.ckpt export=onnx output_dir=export")
    manifest = json.loads((tmp_path / "export" / "onnx-fp32-values" / "manifest.json").read_text())
    assert manifest["kind"] == "regression" and manifest["metric"]["drop"] == pytest.approx(0, abs=1e-4)
    done("tools/evaluate.py artifact=export/onnx-fp32-values output_dir=through")
    through = json.loads((tmp_path / "through" / "evaluation.json").read_text())
    assert through["val/accuracy"] == pytest.approx(found["val/accuracy"], abs=1e-4)
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((50, 40, 3), 128, np.uint8))
    values = []
    for source in ("checkpoint=run/last.ckpt", "artifact=export/onnx-fp32-values"):
        done(f"tools/predict.py {source} source=grey.png output_dir={source.partition('=')[0]}")
        values += json.loads((tmp_path / source.partition("=")[0] / "predictions.json").read_text()).values()
    assert values[0] == pytest.approx(values[1], abs=1e-4)
    done(f"tools/describe.py {chosen}")
    done(f"tools/benchmark.py {chosen} runtimes=[eager] rounds=1 image_size=32 output_dir=times")
