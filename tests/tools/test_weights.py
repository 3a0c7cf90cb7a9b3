"""Published whole networks by weights=: torchvision's by name and as files, and the files of OpenMMLab."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models._api import WeightsEnum

import mobile_dense
from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_small
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from tasks.base.build import build_task
from tasks.base.carrying import carry, trained_task
from tasks.base.network import build_network
from tasks.base.network_weights import read_network_weights
from tasks.data.center_view import CenterView
from tasks.data.classes import Classes
from tasks.data.classification import DEFAULT_PREPROCESSING, named_classes
from tasks.data.imagenet import readable_names
from tasks.deploy.backend import Exported
from tasks.deploy.original import Original
from tasks.describe import describe
from tasks.evaluate import evaluate
from tests.heads.ssd_oracle import coarse_noise, torchvision_detector
from tests.oracles import randomised, relative_error
from tests.tasks.conftest import write_masks
from tests.tasks.detection.test_task import QUICK, write_shapes
from tools.cli import composed

SSD = torchvision.models.detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
LR = torchvision.models.segmentation.LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1
COCO = SSD.meta["categories"]
UNUSED = [label for label, name in enumerate(COCO) if name == "N/A"]


@pytest.fixture(scope="module")
def detector():
    """torchvision's, which gives labels that COCO has no category for no score, as a trained one does."""
    model = torchvision_detector()
    with torch.no_grad():
        for layer in model.head.classification_head.module_list:
            for name, value in (("weight", 0), ("bias", -100)):
                getattr(layer[1], name).unflatten(0, (6, 91))[:, UNUSED] = value
    return model


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21
    )
    return randomised(model).eval()


@pytest.fixture
def published(monkeypatch, detector, segmenter):
    """What would be downloaded."""
    models = {SSD.name: detector, LR.name: segmenter}
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda entry, *_, **__: models[entry.name].state_dict())


def picture(height: int, width: int) -> np.ndarray:
    torch.manual_seed(1)
    return (255 * coarse_noise(1, (height, width))[0].permute(1, 2, 0)).round().byte().numpy()


def config(tool: str, *words: str):
    return composed(tool, words)


def test_torchvisions_detector_gives_its_own_boxes_for_the_80_classes(published, detector):
    model = mobile_dense.load(weights="torchvision", task="detection", backbone="mnv3_large")
    image = picture(320, 320)
    found = model.predict(image)
    with torch.inference_mode():
        (expected,) = detector([torch.from_numpy(image).permute(2, 0, 1) / 255])
    assert len(found.class_names) == 80 and len(found.boxes) == len(expected["boxes"]) > 50
    expected = {name: values.numpy() for name, values in expected.items()}
    ids = model.predictor.task.category_ids[found.labels]
    assert [found.class_names[label] for label in found.labels] == [COCO[number] for number in ids]
    least = expected["scores"].min() * 1.001  # at the cut, equal scores may stand in another order
    ours, theirs = np.lexsort((found.scores, ids)), np.lexsort((expected["scores"], expected["labels"]))
    ours, theirs = (rows[scores[rows] > least] for rows, scores in ((ours, found.scores), (theirs, expected["scores"])))
    assert ids[ours].tolist() == expected["labels"][theirs].tolist()
    np.testing.assert_allclose(found.boxes[ours], expected["boxes"][theirs], atol=0.02)
    np.testing.assert_allclose(found.scores[ours], expected["scores"][theirs], rtol=1e-4)


def test_torchvisions_segmenter_gives_its_own_classes(published, segmenter):
    model = mobile_dense.load(weights="torchvision", task="segmentation", backbone="mnv3_large", image_size=[65, 97])
    images = torch.from_numpy(picture(65, 97)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        expected = segmenter((images / 255 - mean) / std)["out"]
        assert relative_error(model.predictor.task.network(images), expected) < 1e-4
    found = model.predict(picture(65, 97))
    assert found.class_names == ("background", *LR.meta["categories"][1:])
    assert (found.mask == expected.argmax(1)[0].numpy()).mean() > 0.999


def test_a_segmenters_pictures_are_resized_as_its_weights_were_trained(published):
    predictor = mobile_dense.load(weights="torchvision", task="segmentation", backbone="mnv3_large").predictor
    seen = []
    predictor.task.evaluate_images = lambda images, size: seen.append(images.shape) or torch.zeros(1, 21, *size)
    predictor.find(np.zeros((480, 641, 3), np.uint8))
    assert seen == [(1, 3, 520, 694)]


def test_a_segmenter_is_evaluated_at_the_size_that_its_weights_were_and_says_so(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_masks(tmp_path / "data", train=1, val=1, size=(24, 31))
    words = ("task=segmentation", "weights=torchvision", "data=masks", f"data.root={tmp_path / 'data'}",
             "data.class_names=[background,dog,cat]", "trainer.accelerator=cpu", "data.num_workers=0")  # fmt: skip
    result, _ = evaluate(config("evaluate", *words))
    record = json.loads((tmp_path / "runs/evaluation-segmentation-mnv3_large/evaluation.json").read_text())
    assert (result["input_size"], record["shorter_side"]) == ("520x671", 520), "671.67, rounded down as by torchvision"


def test_torchvisions_classifier_predicts_is_evaluated_exported_and_trained(tmp_path, monkeypatch):
    """Probabilities are torchvision's, of images that its own preset prepares."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    entry = torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V2
    model = randomised(torchvision.models.mobilenet_v3_large(weights=None)).eval()
    monkeypatch.setattr(
        WeightsEnum, "get_state_dict", lambda chosen, *_, **__: {entry.name: model.state_dict()}[chosen.name]
    )
    image = picture(260, 300)
    with torch.no_grad():
        view = entry.transforms()(Image.fromarray(image))[None]
        model.classifier[3].weight *= 5 / model(view).std()
        expected = model(view).softmax(1)[0].numpy()
    words = ("task=classification", "backbone=mnv3_large", "weights=torchvision")
    predicting = mobile_dense.load(task="classification", backbone="mnv3_large", weights="torchvision")
    found = predicting.predict(image)
    assert expected.max() > 0.1 and found.class_names[:2] == ("tench", "goldfish")
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-3, atol=1e-6)
    bare = Original(config("export", *words))
    assert bare.image_size == (224, 224) and len(bare.task.classes) == 1000
    evaluating = config("evaluate", *words)
    evaluated, weights = trained_task(evaluating, named_classes(readable_names()))
    with torch.inference_mode():
        prepared = {key: evaluated.network.backbone.preprocessing[key] for key in DEFAULT_PREPROCESSING}
        pixels = CenterView(224, **prepared).of(Image.fromarray(image))
        logits = evaluated(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    np.testing.assert_allclose(logits.softmax(1)[0].numpy(), expected, rtol=1e-3, atol=1e-6)

    own = build_task(evaluating, Classes(("robot", "goldfish"), ((0, 0, 0),) * 2), pretrained=False)
    report = carry(own.network, weights, own.classes)
    assert (report.carried_classes, report.fresh_classes) == (("goldfish",), ("robot",))
    assert own.network.head.linear.weight[1].equal(model.classifier[3].weight[1])


def test_a_file_goes_to_own_classes_and_every_other_tensor_is_equal(detector, tmp_path):
    torch.save(detector.state_dict(), tmp_path / "ssdlite.pth")
    words = [f"weights={tmp_path / 'ssdlite.pth'}", "seed=3"]
    classes = Classes(("dog", "robot", "person"), ((0, 0, 0),) * 3)
    torch.manual_seed(3)
    task = build_task(config("train", *words), classes, pretrained=False)
    fresh = {key: tensor.clone() for key, tensor in task.network.state_dict().items()}
    report = carry(task.network, read_network_weights(config("train", *words)), classes)
    assert (report.carried_classes, report.fresh_classes) == (("dog", "person"), ("robot",))
    assert len(report.left_classes) == 78 and report.unused == () and len(report.mapped) == 12
    source, found = detector.state_dict(), task.network.state_dict()
    sums = sorted(float(tensor.double().sum()) for key, tensor in source.items()
                  if not re.search(r"classification_head.module_list.\d.1.(weight|bias)$", key))  # fmt: skip
    assert len(report.carried) == len(sums)
    assert sorted(float(found[key].double().sum()) for key in report.carried) == pytest.approx(sums, rel=1e-12)
    for level in range(6):
        for name in ("weight", "bias"):
            theirs = source[f"head.classification_head.module_list.{level}.1.{name}"].unflatten(0, (6, 91))
            rows, new = (state[f"head.class_layers.{level}.1.{name}"].unflatten(0, (6, 4)) for state in (found, fresh))
            assert torch.equal(rows[:, [0, 1, 3]], theirs[:, [0, COCO.index("dog"), COCO.index("person")]])
            assert torch.equal(rows[:, 2], new[:, 2])
    assert task.network.mean.flatten().tolist() == [127.5] * 3


def test_the_tools_work_without_a_checkpoint(published, run_tool, tmp_path):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/one.png"), picture(60, 80))
    words = "task=detection backbone=mnv3_large weights=torchvision"
    status, out, err = run_tool(f"tools/predict.py {words} source=photos/one.png")
    assert status == 0, out + err
    entries = json.loads((tmp_path / "runs/weights-detection-mnv3_large/predictions/predictions.json").read_text())
    assert entries and {COCO[one["category_id"]] == one["category"] for one in entries} == {True}
    write_shapes(tmp_path / "data")
    for path in (tmp_path / "data/annotations").iterdir():
        path.write_text(path.read_text().replace('"disc"', '"dog"').replace('"square"', '"person"'))
    status, out, err = run_tool(f"tools/evaluate.py {words} data=coco data.root=data {QUICK}")
    assert status == 0, out + err
    result = json.loads((tmp_path / "runs/evaluation-detection-mnv3_large/evaluation.json").read_text())
    assert result["images"] == 5 and result["weights"] == "torchvision" and "val/AP/dog" in result


def test_an_export_of_weights_needs_no_data_and_is_calibrated_on_any_folder(published, tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "one.png"), picture(60, 80))
    words = ("task=detection", "weights=torchvision", "export.image_size=64")
    original = Original(config("export", *words, f"export.calibration_source={tmp_path}"))
    assert original.task.classes.ids[-1] == 90 and original.image_size == (64, 64) and len(original.examples) == 2
    assert [image.shape for image in original.images("train", 4)] == [(1, 3, 64, 64)]
    assert "no data is given, so no metric is measured" in caplog.text and not original.settings["evaluate"]
    manifest = original.certificate("raw", None, "uint8", Exported({}))
    assert manifest.config["data"] is None and manifest.config["backbone"]["reduced_tail"] is True
    bare = Original(config("export", "task=segmentation", "weights=torchvision"))
    assert bare.image_size == (520, 520) and len(bare.examples) == 1
    with pytest.raises(ValueError, match=r"no data is chosen; .* export\.calibration_source= to a folder"):
        bare.images("train", 4)
    with pytest.raises(ValueError, match=r"export\.doctor=true measures, and no data is given"):
        Original(config("export", *words, "export.doctor=true"))


def test_a_description_has_the_classes_of_the_weights(published):
    found = describe(config("describe", "task=segmentation", "weights=torchvision"))
    assert found["costs"]["trained"]["parameters"] == LR.meta["num_params"]


def test_head_weights_of_torchvision_are_the_detectors(published, detector):
    task, _ = trained_task(config("evaluate", "task=detection", "weights=torchvision"))
    assert task.network.head.known_as == {"torchvision": "ssdlite320_mobilenet_v3_large"}
    words = ["task=detection", "backbone.reduced_tail=true", "head.weights=torchvision"]
    names = tuple(f"{label} {name}" for label, name in enumerate(COCO[1:]))
    found = build_task(config("train", *words), Classes(names, ((0, 0, 0),) * 90))
    theirs = detector.state_dict()["head.classification_head.module_list.0.1.weight"]
    assert torch.equal(found.network.head.class_layers[0][1].weight, theirs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=detection", "backbone=mnv2", "weights=torchvision"],
         "weights=torchvision: torchvision publishes no detection network of mobilenet_v2 with SSDLite; give a file"),
        (["task=detection", "head=gfl_lite", "weights=torchvision"], "network of mobilenet_v3_large with GFLLite"),
        (["weights=torchvision"], "no task is chosen; give task=detection, segmentation or classification"),
        (["task=detection", "weights=absent.pth"], "no weights at absent.pth; expected a file, or weights=torchvision"),
        (["task=detection", "weights={0}/other.pth"], "other.pth holds none of the networks that weights= knows; its "
         "first names: features.0.weight, features.0.bias\nexpected a checkpoint of ours, or torchvision's SSDLite, "),
        (["task=detection", "weights={0}/lraspp.pth"], "task=detection: {0}/lraspp.pth has task=segmentation; leave"),
        (["head=lraspp", "weights={0}/lraspp.pth"], "head=lraspp: {0}/lraspp.pth has head=lraspp_tv; leave head= out"),
    ],
)  # fmt: skip
def test_what_is_not_published_or_not_known_is_told(tmp_path, words, message):
    torch.save({"features.0.weight": torch.ones(1), "features.0.bias": torch.ones(1)}, tmp_path / "other.pth")
    torch.save({"classifier.high_classifier.weight": torch.ones(21, 128, 1, 1)}, tmp_path / "lraspp.pth")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        trained_task(config("evaluate", *(word.format(tmp_path) for word in words)))
    assert message.format(tmp_path) in str(error.value)


def conv_module(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.conv": f"{theirs}.conv", f"{ours}.norm": f"{theirs}.bn"}


def renamed(network, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """State dict of a network by others' names of its modules; every tensor must get one."""
    found = {}
    for key, tensor in network.state_dict().items():
        if key in ("mean", "std"):
            continue
        module, _, leaf = key.rpartition(".")
        found[f"{names[module]}.{leaf}"] = tensor
    return found


def test_mmdetections_file_computes_the_same_with_its_eps_and_its_background_last(tmp_path):
    source = build_network(mobilenet_v2(), lambda **given: SSDLite(**given, first="c4"), 80)
    for module in randomised(source).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.001
    names = conv_module("backbone.layers.0", "backbone.conv1") | conv_module("backbone.layers.18", "backbone.conv2")
    blocks = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2), (4, 3), (5, 0), (5, 1), (5, 2),
              (6, 0), (6, 1), (6, 2), (7, 0)]  # fmt: skip
    for index, (stage, block) in enumerate(blocks, start=1):
        for ours, theirs in (("expand", "expand"), ("depthwise", "depthwise"), ("project", "linear")):
            names |= conv_module(f"backbone.layers.{index}.{ours}", f"backbone.layer{stage}.{block}.{theirs}_conv")
    for level in range(4):
        for part, theirs in enumerate(("0", "1.depthwise_conv", "1.pointwise_conv")):
            names |= conv_module(f"head.extra.{level}.{part}", f"neck.extra_layers.{level}.{theirs}")
    for level in range(6):
        for ours, theirs in (("box", "reg"), ("class", "cls")):
            names |= conv_module(f"head.{ours}_layers.{level}.0", f"bbox_head.{theirs}_convs.{level}.0")
            names[f"head.{ours}_layers.{level}.1"] = f"bbox_head.{theirs}_convs.{level}.1"
    state = renamed(source, names)
    for level in range(6):
        for name in ("weight", "bias"):
            key = f"bbox_head.cls_convs.{level}.1.{name}"
            state[key] = state[key].unflatten(0, (6, 81)).roll(-1, 1).flatten(0, 1)
    torch.save({"state_dict": state, "meta": {"epoch": 120}}, tmp_path / "ssdlite.pth")
    task, weights = trained_task(config("evaluate", f"weights={tmp_path / 'ssdlite.pth'}"))
    assert task.classes.names == tuple(name for name in COCO[1:] if name != "N/A") and weights.image_size == (320, 320)
    assert task.selection["iou_threshold"] == 0.45 and task.network.backbone.layers[0].norm.eps == 1e-5
    images = torch.randint(0, 256, (1, 3, 96, 96))
    with torch.inference_mode():
        expected, actual = source(images), task.network(images)
    for key in ("class_logits", "box_deltas"):
        assert relative_error(actual[key], expected[key]) < 1e-4


def test_mmsegmentations_file_computes_the_same_and_its_classes_are_those_that_it_states(tmp_path):
    options = {"skips": ("c1", "c2"), "skip_channels": (32, 64), "pool": "global", "merge": "concat"}
    source = build_network(mobilenet_v3_small(output_stride=8), lambda **given: LRASPP(**given, **options), 3)
    for module in randomised(source).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.001
    for layer in (source.head.gate.conv, *source.head.skips):
        layer.bias.data.zero_()
    names = conv_module("backbone.layers.0", "backbone.layer0") | conv_module("backbone.layers.12", "backbone.layer12")
    for index in range(1, 12):
        for ours, theirs in (("expand", "expand"), ("depthwise", "depthwise"), ("project", "linear")):
            names |= conv_module(f"backbone.layers.{index}.{ours}", f"backbone.layer{index}.{theirs}_conv")
        for at in (1, 2):
            names[f"backbone.layers.{index}.squeeze.fc{at}"] = f"backbone.layer{index}.se.conv{at}.conv"
    names |= conv_module("head.deep", "decode_head.aspp_conv")
    for at in (0, 1):
        names |= conv_module(f"head.mixes.{at}", f"decode_head.conv_ups.conv_up{at}")
        names[f"head.skips.{at}"] = f"decode_head.convs.conv{at}"
    names |= {"head.gate.conv": "decode_head.image_pool.1.conv", "head.deep_projection": "decode_head.conv_up_input",
              "head.classifier": "decode_head.conv_seg"}  # fmt: skip
    unbiased = ("image_pool.1.conv.bias", "convs.conv0.bias", "convs.conv1.bias")
    state = {key: tensor for key, tensor in renamed(source, names).items() if not key.endswith(unbiased)}
    torch.save({"state_dict": state, "meta": {"CLASSES": ("road", "sky", "car")}}, tmp_path / "lraspp.pth")
    task, _ = trained_task(
        config("evaluate", f"weights={tmp_path / 'lraspp.pth'}", "backbone=mnv3_small", "head.pool=global")
    )
    assert task.classes.names == ("road", "sky", "car") and task.network.backbone.output_stride == 8
    images = torch.randint(0, 256, (1, 3, 65, 97))
    with torch.inference_mode():
        assert relative_error(task.network(images), source(images)) < 1e-4
