"""Widths in a configuration: from the command line into the checkpoint, and of a shrunk network out of it."""

import json

import pytest
import torch

from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.widths import shrink, touched_by_each
from tasks.base.build import build_backbone, build_task, build_whole_network
from tasks.base.carrying import trained_task
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.base.checkpoint_files import write_checkpoint
from tasks.data.classes import Classes
from tasks.deploy.manifest import read_manifest
from tasks.training.fit import fit
from tests.oracles import randomised, relative_error
from tests.tasks.conftest import composed
from tools.cli import composed as command_line

WIDTHS = "backbone.widths={stage3.out: 20, block5.expand: 44}"


def test_widths_come_from_the_command_line():
    widths = build_backbone(composed("train", "task=segmentation", "backbone=mnv3_small", WIDTHS)).widths
    assert (widths["stage3.out"], widths["block5.expand"], widths["block6.expand"]) == (20, 44, 240)
    wrong = composed("train", "task=segmentation", "backbone=mnv3_small", "backbone.widths={block5.extend: 4}")
    with pytest.raises(ValueError, match=r"MobileNetV3 has no block5\.extend; the nearest of its 26: block5\.expand"):
        build_backbone(wrong)


@pytest.mark.long
def test_a_shrunk_networks_checkpoint_is_evaluated_and_exported(small_run, run_tool, tmp_path):
    fit(small_run("backbone=mnv3_small", "trainer.max_epochs=2", WIDTHS))
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


def saved_backbone(tmp_path, dead: dict[str, int]):
    """A file of MobileNetV3-Small with random weights, and the last channels of some widths dead."""
    torch.manual_seed(0)
    network = randomised(mobilenet_v3_small(output_stride=16))
    places = touched_by_each(lambda widths: mobilenet_v3_small(widths=widths), network.widths)
    state = network.state_dict()
    for name, count in dead.items():
        for key in places[name]:
            owner, _, leaf = key.rpartition(".")
            if leaf == "running_mean":
                state[f"{owner}.weight"][-count:] = state[f"{owner}.bias"][-count:] = 0
    torch.save(state, tmp_path / "wide.pth")
    return network.eval()


def of_widths(file, *more: str):
    words = ("task=segmentation", "backbone=mnv3_small", f"backbone.weights={file}", *more)
    return build_whole_network(composed("train", *words), 3).eval()


def test_weights_of_the_published_widths_go_into_fewer_channels(tmp_path, caplog):
    caplog.set_level("INFO")
    wide, file = saved_backbone(tmp_path, {"stage3.out": 20, "block5.expand": 196}), tmp_path / "wide.pth"
    fewer = WIDTHS.replace("}", f", block5.squeeze: {wide.widths['block5.squeeze']}}}")
    narrow = of_widths(file, fewer)
    assert "2 widths narrowed (stage3.out, block5.expand): channels of the largest norm stay" in caplog.text
    assert narrow.backbone.widths["stage3.out"] == 20
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected, actual = wide.double()(images), narrow.double().backbone(images)
    for name, features in actual.items():
        assert relative_error(features, expected[name][:, : features.shape[1]]) < 1e-10

    caplog.clear()
    torch.save(narrow.float().backbone.state_dict(), tmp_path / "narrow.pth")
    again = of_widths(tmp_path / "narrow.pth", fewer)
    assert "narrowed" not in caplog.text, "they fit as they are"
    torch.testing.assert_close(again.backbone.state_dict(), narrow.backbone.state_dict())
    with pytest.raises(ValueError, match=r"do width, reduced_tail, widths, in_channels and the number of classes fit"):
        of_widths(tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"stage3\.out=48 is above the present 40; none can be added"):
        of_widths(file, "backbone.widths={stage3.out: 48}")


def test_a_whole_network_goes_into_fewer_channels(tmp_path):
    """Outputs are those of the network that shrink makes."""
    config = composed("train", "task=classification", "backbone=mnv3_small")
    task = build_task(config, Classes(("cat", "dog"), ((0, 0, 0), (9, 9, 9))), pretrained=False)
    randomised(task.network)
    task.config["choices"] = {"task": "classification", "backbone": "mnv3_small", "head": "linear"}
    content = {"state_dict": task.state_dict(), "epoch": 0, "global_step": 0}
    task.on_save_checkpoint(content)
    write_checkpoint(tmp_path / "wide.ckpt", content)

    def build(widths):
        own = {**task.config, "backbone": {**task.config["backbone"], "widths": dict(widths)}}
        return build_whole_network(own, len(task.classes), pretrained=False)

    expected = shrink(build, task.network, {"stage3.out": 20, "final": 300}).eval()
    narrow, _ = trained_task(
        command_line("evaluate", [f"weights={tmp_path / 'wide.ckpt'}", "backbone.widths={stage3.out: 20, final: 300}"])
    )
    images = torch.randint(0, 256, (2, 3, 32, 32))
    with torch.inference_mode():
        torch.testing.assert_close(narrow.network(images), expected(images))
