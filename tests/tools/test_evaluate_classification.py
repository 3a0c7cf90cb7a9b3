"""Classifiers from the command line: published weights, checkpoints, sweeps, predictions, and what is carried over."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from tasks.base.checkpoint import load_task, read_checkpoint, save_fused
from tasks.base.result_folders import EVALUATION_FILES
from tasks.files.videos import VideoWriter, frames
from tasks.training.fit import fit
from tests.oracles import randomised
from tests.tasks.classification.test_task import CLASSES, write_folders
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import write_shapes

WNIDS = ("n01440764", "n02510455", "n04254680")  # labels 0, 388, 805
CPU = " trainer.accelerator=cpu data.num_workers=0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data/ and, of a few steps, the checkpoints mobileone_s0.ckpt and repvit_m0_6.ckpt."""
    root = tmp_path_factory.mktemp("trained")
    write_folders(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        for backbone, *more in (("mobileone_s0",), ("repvit_m0_6", "head=repvit_classifier", "head.distillation=true")):
            patch.delenv("MOBILE_DENSE_RUN", raising=False)
            fit(composed(
                "train", "task=classification", f"backbone={backbone}", "backbone.width=0.25", "data=folders",
                f"data.root={root / 'data'}", "data.image_size=32", "data.batch_size=4", "data.val_batch_size=4",
                "data.interpolation=bicubic", "trainer.max_epochs=2", "trainer.accelerator=cpu", "tensorboard=false",
                f"output_dir={root / backbone}", *more,
            ))  # fmt: skip
            (root / backbone / "last.ckpt").rename(root / f"{backbone}.ckpt")
        patch.delenv("MOBILE_DENSE_RUN", raising=False)
    return root


def predictions(folder) -> dict[str, dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def scores(folder) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def loss_by_torchvision(checkpoint, data, side: int, interpolation: str) -> float:
    """Of the validation images behind torchvision's own preset."""
    preset = ImageClassification(
        crop_size=side, resize_size=int(side / 0.875), interpolation=InterpolationMode(interpolation),
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    task, set_of = load_task(checkpoint).eval(), torchvision.datasets.ImageFolder(data / "val", preset)
    images, labels = zip(*set_of, strict=True)
    with torch.inference_mode():
        logits = task(torch.stack(images) * 255)
    return F.cross_entropy(logits, torch.tensor(labels), label_smoothing=task.label_smoothing).item()


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize("entry", list(MobileNet_V2_Weights), ids=lambda entry: entry.name)
def test_published_weights_give_what_torchvisions_model_and_transforms_give(run_tool, tmp_path, real_data, entry):
    """Image by image, on photographs in folders of ImageNet. The weights are V1's; under the name of V2's file they are
    taken for those, and V2's preprocessing is asked for."""
    published = real_data / "weights" / "mobilenet_v2-b0353104.pth"
    weights = tmp_path / entry.url.rpartition("/")[2]
    weights.symlink_to(published)
    for index, photograph in enumerate(sorted((real_data / "coco" / "val2017").iterdir())[:12]):
        folder = tmp_path / "imagenet" / "val" / WNIDS[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / photograph.name).symlink_to(photograph)
    status, out, err = run_tool(
        f"tools/evaluate.py task=classification backbone=mnv2 backbone.weights={weights} head.weights={weights} "
        f"data=imagenet data.root=imagenet data.val_batch_size=5 output_dir=e{CPU}"
    )
    assert status == 0, out + err
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(torch.load(published))
    found, right = predictions(tmp_path / "e"), 0
    assert len(found) == 12
    for name, row in found.items():
        with Image.open(tmp_path / "imagenet" / "val" / name) as image, torch.inference_mode():
            expected = model(entry.transforms()(image.convert("RGB"))[None]).softmax(1)[0]
        label = (0, 388, 805)[WNIDS.index(name.split("/")[0])]
        guess = int(expected.argmax())
        assert row["guess"] in (entry.meta["categories"][guess], *ambiguous(entry, guess))
        assert float(row["probability"]) == pytest.approx(expected[guess].item(), abs=1e-5)
        assert float(row["true_probability"]) == pytest.approx(expected[label].item(), abs=1e-5)
        right += guess == label
    result = scores(tmp_path / "e")
    assert result["val/top1"] == right / 12 and result["images"] == 12
    preset = entry.transforms()
    assert result["data"]["crop_ratio"] == pytest.approx(224 / preset.resize_size[0])
    assert result["data"]["interpolation"] == preset.interpolation.value


def ambiguous(entry, label: int) -> list[str]:
    """How a class is shown whose name another one has as well."""
    from tasks.data.imagenet import synsets

    return [f"{entry.meta['categories'][label]} ({synsets()[label]})"]


@pytest.mark.long
def test_a_checkpoint_is_scored_at_every_size_asked_for(run_tool, trained, tmp_path):
    command = f"tools/evaluate.py checkpoint={trained}/mobileone_s0.ckpt{CPU}"
    status, out, err = run_tool(f"{command} data.image_size=[32,48] output_dir=sweep")
    assert status == 0, out + err
    swept = scores(tmp_path / "sweep")
    assert swept["macs@48"] > 2 * swept["macs@32"] and "MACs [M]" in out
    for side in (32, 48):
        assert run_tool(f"{command} data.image_size={side} output_dir=e{side}")[0] == 0
        single = scores(tmp_path / f"e{side}")
        assert single["val/top1"] == swept[f"val/top1@{side}"]
        assert single["val/loss"] == pytest.approx(swept[f"val/loss@{side}"], rel=1e-6)
        expected = loss_by_torchvision(trained / "mobileone_s0.ckpt", trained / "data", side, "bicubic")
        assert single["val/loss"] == pytest.approx(expected, rel=1e-4)
    assert swept["val/loss"] == swept["val/loss@48"]
    for name in ("evaluation.png", "confusion.png", "per_class.csv", "predictions.csv"):
        assert (tmp_path / "sweep" / name).stat().st_size > 0, name
    assert predictions(tmp_path / "sweep") == predictions(tmp_path / "e48")
    assert "most frequent confusions" in out and "classes, the worst first" in out


@pytest.mark.long
def test_a_checkpoint_keeps_its_preprocessing_on_other_data(run_tool, trained, tmp_path):
    data = read_checkpoint(trained / "mobileone_s0.ckpt")["config"]["data"]
    assert (data["crop_ratio"], data["interpolation"]) == (0.875, "bicubic"), "what was left open is settled"
    checkpoint = f"checkpoint={trained}/mobileone_s0.ckpt data=folders data.root={trained}/data data.image_size=32"
    status, _, err = run_tool(f"tools/evaluate.py {checkpoint} output_dir=e{CPU}")
    assert status == 0, err
    assert scores(tmp_path / "e")["data"]["interpolation"] == "bicubic"
    status, _, err = run_tool(f"tools/evaluate.py {checkpoint} output_dir=f data.interpolation=bilinear{CPU}")
    assert status == 0 and scores(tmp_path / "f")["data"]["interpolation"] == "bilinear"
    for folder, interpolation in (("e", "bicubic"), ("f", "bilinear")):
        expected = loss_by_torchvision(trained / "mobileone_s0.ckpt", trained / "data", 32, interpolation)
        assert scores(tmp_path / folder)["val/loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["mobileone_s0", "repvit_m0_6"])
def test_a_fused_classifier_scores_the_same(run_tool, trained, tmp_path, name):
    content = torch.load(trained / f"{name}.ckpt", weights_only=True)
    for key in (key for key in content["state_dict"] if key.endswith(("running_mean", "norm.bias"))):
        content["state_dict"][key].add_(0.1 * torch.randn_like(content["state_dict"][key]))  # fresh norms hide errors
    torch.save(content, tmp_path / "run.ckpt")
    save_fused(tmp_path / "run.ckpt", tmp_path / "fused.ckpt")
    for form in ("run", "fused"):
        status, _, err = run_tool(f"tools/evaluate.py checkpoint={form}.ckpt output_dir={form}{CPU}")
        assert status == 0, err
    unfused, fused = (predictions(tmp_path / form) for form in ("run", "fused"))
    for image, row in unfused.items():
        assert fused[image]["guess"] == row["guess"]
        assert float(fused[image]["probability"]) == pytest.approx(float(row["probability"]), abs=1e-5)
    assert scores(tmp_path / "fused")["val/top1"] == scores(tmp_path / "run")["val/top1"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["mobileone_s0", "repvit_m0_6"])
def test_a_detector_takes_the_trunk_and_leaves_the_classifier(run_tool, trained, tmp_path, name):
    write_shapes(tmp_path / "shapes", train=2, val=1)
    head = "ssdlite_mmdet" if name == "repvit_m0_6" else "ssdlite_tv"
    status, out, err = run_tool(
        f"tools/train.py task=detection backbone={name} backbone.width=0.25 head={head} optimizer.lr=0 data=coco "
        f"data.root=shapes data.image_size=[64,64] data.batch_size=2 trainer.max_epochs=1 trainer.max_steps=1 "
        f"backbone.weights={trained}/{name}.ckpt task.freeze_norm=true tensorboard=false output_dir=run{CPU}"
    )
    assert status == 0, out + err
    line = next(line for line in out.splitlines() if "tensors loaded" in line)
    assert "(ours names)" in line and "left aside: network.*" in line
    before, after = (
        read_checkpoint(path)["state_dict"] for path in (trained / f"{name}.ckpt", tmp_path / "run/last.ckpt")
    )
    trunk = {key: tensor for key, tensor in after.items() if key.startswith("network.backbone.")}
    assert all(torch.equal(before[key], tensor) for key, tensor in trunk.items())
    assert len(trunk) > 50 and not any(key in before for key in after if key.startswith("network.head."))


@pytest.mark.long
def test_pictures_and_videos_are_classified_as_in_the_validation(run_tool, trained, tmp_path):
    content = torch.load(trained / "mobileone_s0.ckpt", weights_only=True)
    task = load_task(trained / "mobileone_s0.ckpt")
    randomised(task.network)  # a network whose guesses a slip in the preprocessing changes, and not saturated ones
    with torch.no_grad():
        task.network.head.linear.weight /= task(torch.randint(0, 256, (8, 3, 32, 32))).abs().max() / 3
    content["state_dict"] = task.state_dict()
    torch.save(content, tmp_path / "run.ckpt")
    checkpoint = "checkpoint=run.ckpt"
    assert run_tool(f"tools/evaluate.py {checkpoint} output_dir=e{CPU}")[0] == 0
    assert {path.name for path in (tmp_path / "e").iterdir()} <= {*EVALUATION_FILES}
    status, out, err = run_tool(f"tools/predict.py {checkpoint} source={trained}/data/val output_dir=p")
    assert status == 0, out + err
    found = json.loads((tmp_path / "p/predictions.json").read_text())
    validated = predictions(tmp_path / "e")
    assert found.keys() == validated.keys() and len(found) == 6
    for name, guesses in found.items():
        (first, probability), *_ = guesses.items()
        assert first == validated[name]["guess"]
        assert probability == pytest.approx(float(validated[name]["probability"]), abs=1e-5)
        assert set(guesses) == set(CLASSES.names) and list(guesses.values()) == sorted(guesses.values(), reverse=True)
    assert (tmp_path / "p/disc/0_overlay.png").is_file()
    image = cv2.imread(str(trained / "data/val/disc/0.png"))[..., ::-1]
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for _ in range(3):
            writer.write(np.ascontiguousarray(image))
    status, out, err = run_tool(f"tools/predict.py {checkpoint} source=clip.mp4 output_dir=v image_size=48")
    assert status == 0, out + err
    assert len(list(frames(tmp_path / "v/clip_overlay.mp4"))) == 3
    assert sum(json.loads((tmp_path / "v/predictions.json").read_text())["clip.mp4"].values()) == pytest.approx(
        1, abs=1e-5
    )
    status, _, err = run_tool(f"tools/predict.py {checkpoint} source=clip.mp4 image_size=[32,48]")
    assert status == 1 and "expected one number of px, since a classifier sees a square" in err


def test_published_weights_of_a_whole_segmenter_are_scored_too(run_tool, tmp_path):
    from tests.tasks.conftest import write_masks

    write_masks(tmp_path / "data")
    oracle = randomised(torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None,
                                                                                  num_classes=3))  # fmt: skip
    torch.save(oracle.state_dict(), tmp_path / "whole.pth")
    status, out, err = run_tool(
        "tools/evaluate.py task=segmentation head=lraspp_tv data=masks data.root=data data.class_names=[a,b,c] "
        f"backbone.weights=whole.pth head.weights=whole.pth{CPU}"
    )
    assert status == 0, out + err
    assert scores(tmp_path / "runs/evaluation-segmentation-mnv3_large")["images"] == 3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("task=classification", "backbone.weights and head.weights not set, so there is nothing trained to evaluate"),
        ("task=classification backbone.weights=x.pth", "head.weights not set, so there is nothing trained"),
        ("task=classification backbone.weights=x.pth head.weights=x.pth data=imagenet", "no weights at x.pth"),
        ("task=classification backbone.widht=1", "no key widht in backbone; did you mean width"),
        ("task=classification data=imagnet", "there is no such data; did you mean imagenet"),
        ("data=imagenet", "data= goes with a task, and none is chosen; give task=<name>"),
        ("task=classification evaluater=fast", "no key evaluater; did you mean evaluator"),
    ],
)
def test_bad_input_is_a_line_that_names_it(run_tool, command, message):
    status, out, err = run_tool(f"tools/evaluate.py {command}")
    lines = [line for line in err.splitlines() if line.strip()]
    assert status == 1, out + err
    assert message in lines[-1] and len(lines) == 1, err
