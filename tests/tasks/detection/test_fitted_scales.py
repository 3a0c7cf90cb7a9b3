"""Scales fitted to the training boxes: by torchvision's IoU, in a run's checkpoint, refused where they cannot be."""

import json
import logging

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from heads.ssdlite import SSDLite
from tasks.base.build import build_data, build_whole_network
from tasks.base.checkpoint import load_task
from tasks.data.coco import CocoData
from tasks.detection.anchor_fit import fit_scales
from tasks.detection.fitted_scales import with_fitted_scales
from tasks.detection.task import LOSSES, DetectionTask
from tasks.training.fit import fit
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import QUICK, write_shapes

SIZE = (192, 192)


@pytest.fixture(scope="module")
def small_shapes(tmp_path_factory):
    """Squares and discs whose boxes are said to be a third as large as they are, some 20 px of 192."""
    root = tmp_path_factory.mktemp("small")
    write_shapes(root)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        for one in content["annotations"]:
            one["bbox"] = [*one["bbox"][:2], one["bbox"][2] / 3, one["bbox"][3] / 3]
        file.write_text(json.dumps(content))
    return root


def config(root, *words):
    return composed(
        "train", "task=detection", "backbone=mnv1_025", "data=coco", f"data.root={root}",
        *QUICK.split(), "data.image_size=[192,192]", *words,
    )  # fmt: skip


def matched(head, annotations):
    """Share of the boxes that an anchor meets with an IoU of a half, by torchvision."""
    found = []
    for image, (height, width) in enumerate(annotations.sizes.tolist()):
        boxes = torch.from_numpy(annotations.targets(image)[0] * np.float32([SIZE[1] / width, SIZE[0] / height] * 2))
        if len(boxes):
            found.append(box_iou(boxes, head.anchors(SIZE)).amax(1) >= 0.5)
    return torch.cat(found).double().mean().item()


@pytest.mark.parametrize("words", [(), ("head.finest=c3",), ("head=ssdlite_mmdet",), ("head=ssdlite_tf",)])
def test_the_scales_match_more_boxes_and_fit_the_levels(small_shapes, words):
    asked = config(small_shapes, *words, "head.scales=auto")
    data = build_data(asked)
    fitted = with_fitted_scales(asked, data, LOSSES)
    heads = [build_whole_network(one, 2, pretrained=False).head for one in (config(small_shapes, *words), fitted)]
    assert asked["head"]["scales"] == "auto"  # as it was given
    assert len(fitted["head"]["scales"]) == len(heads[1].strides) + 1
    before, after = (matched(head, data.annotations("train")) for head in heads)
    assert after >= 0.6 and after > before
    if words in ((), ("head.finest=c3",)):  # torchvision's smallest box is of 0.2
        assert before == 0 and after >= (0.9 if words else 0.6)
    assert {**fitted["head"], "scales": None} == {**asked["head"], "scales": None}


def test_a_run_keeps_the_numbers_and_says_what_is_out_of_reach(small_shapes, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
    caplog.set_level(logging.INFO)
    words = ("head.scales=auto", "trainer.max_epochs=0", f"output_dir={tmp_path}/run")
    fit(config(small_shapes, *words))
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
    task = load_task(tmp_path / "run" / "last.ckpt")  # without the data
    scales = task.config["head"]["scales"]
    assert len(scales) == 7 and all(isinstance(one, float) for one in scales)
    assert f"head.scales=auto: [{', '.join(map(str, scales))}], fitted to the training boxes" in caplog.text
    assert task.network.head.shapes[0][0] == (scales[0], scales[0])


def test_a_run_names_settings_that_reach_more(small_shapes):
    data = CocoData(str(small_shapes), image_size=SIZE, num_workers=0)
    made = config(small_shapes)
    network = build_whole_network(made, 2, pretrained=False)
    task = DetectionTask(network, data.classes, optimizer=torch.optim.SGD)
    assert "would" not in task.findings(data)[0].text  # of a head by hand the settings are not known
    task.config = made
    (finding,) = task.findings(data)
    share, advised = finding.text.split("; it would be ")
    assert "fit no anchor at 192x192 px (small " in share
    first, _, override = advised.split(", ")[0].partition(" with ")
    assert float(first.rstrip("%")) < float(share.split("%")[0].split()[-1]) and override.startswith("head.")
    assert "data.image_size=[" in advised
    fine = config(small_shapes, "head.scales=[0.1,0.24,0.38,0.52,0.67,0.81,0.95,0.95]", "head.finest=c3")
    task.network.head, task.config = build_whole_network(fine, 2, pretrained=False).head, fine
    large = CocoData(str(small_shapes), image_size=(288, 288), num_workers=0)
    assert "would" not in task.findings(large)[0].text


def test_heads_without_default_boxes_and_sets_without_boxes(small_shapes, tmp_path):
    other = config(small_shapes, "head=gfl_lite")
    data = build_data(other)
    assert with_fitted_scales(other, data, LOSSES) is other
    numbers = config(small_shapes)
    assert with_fitted_scales(numbers, data, LOSSES) is numbers
    data.annotations("train").sizes[:] = 0
    with pytest.raises(ValueError, match=r"head\.scales=auto: no image of the training set has boxes and a known size"):
        with_fitted_scales(config(small_shapes, "head.scales=auto"), data, LOSSES)
    taps = build_whole_network(numbers, 2, pretrained=False).head.taps
    with pytest.raises(ValueError, match="no training box has an area"):
        point = [torch.tensor([[0.5, 0.5, 0.5, 0.5]])]
        fit_scales(SSDLite(taps, 2), {"ratios": [2, 3], "scales": [0.2, 0.95]}, point, SIZE, 0.5)
