"""Widths in a configuration: from the command line into the checkpoint, and of a shrunk network out of it."""

import json

import pytest
import torch

from backbones.widths import shrink
from tasks.base.build import build_backbone, build_whole_network
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.base.checkpoint_files import write_checkpoint
from tasks.deploy.manifest import read_manifest
from tasks.training.fit import fit
from tests.tasks.conftest import composed

WIDTHS = "backbone.widths={stage3.out: 20, block5.expand: 44}"


def test_widths_come_from_the_command_line():
    widths = build_backbone(composed("train", "task=segmentation", "backbone=mnv3_small", WIDTHS)).widths
    assert (widths["stage3.out"], widths["block5.expand"], widths["block6.expand"]) == (20, 44, 240)
    wrong = composed("train", "task=segmentation", "backbone=mnv3_small", "backbone.widths={block5.extend: 4}")
    with pytest.raises(ValueError, match=r"MobileNetV3 has no block5\.extend; the nearest of its 26: block5\.expand"):
        build_backbone(wrong)


@pytest.mark.long
def test_a_shrunk_networks_checkpoint_is_evaluated_and_exported(small_run, run_tool, tmp_path):
    fit(small_run("trainer.max_epochs=2", WIDTHS))
    path, narrower = tmp_path / "run" / "last.ckpt", tmp_path / "narrow.ckpt"
    content, network = read_checkpoint(path), load_task(path).network
    assert content["config"]["backbone"]["widths"] == {"stage3.out": 20, "block5.expand": 44}

    def build(widths):
        config = content["config"] | {"backbone": content["config"]["backbone"] | {"widths": dict(widths)}}
        return build_whole_network(config, 3, pretrained=False)

    narrow = shrink(build, network, {"stage3.out": 13, "block8.squeeze": 5, "final": 301})
    content["config"]["backbone"]["widths"] = narrow.backbone.widths
    content["state_dict"] = {f"network.{key}": tensor for key, tensor in narrow.state_dict().items()}
    write_checkpoint(narrower, content)
    images = torch.randint(0, 256, (1, 3, 32, 32))
    with torch.inference_mode():
        torch.testing.assert_close(load_task(narrower).network(images), narrow(images))
    status, _, err = run_tool(f"tools/evaluate.py checkpoint={narrower} output_dir=e")
    assert status == 0, err
    formats = ["onnx", "pt2", "executorch"]
    status, _, err = run_tool(
        f"tools/export.py checkpoint={narrower} export.formats=[{','.join(formats)}] output_dir=out"
    )
    assert status == 0, err
    score = json.loads((tmp_path / "e" / "evaluation.json").read_text())["val/mIoU"]
    for format in formats:
        manifest = read_manifest(next((tmp_path / "out").glob(f"{format}-fp32-*")))[1]
        assert manifest.certified == ("outputs", "val/mIoU")
        assert manifest.metric["checkpoint"] == pytest.approx(score, abs=1e-6)
        assert manifest.config["backbone"]["widths"]["final"] == 301
