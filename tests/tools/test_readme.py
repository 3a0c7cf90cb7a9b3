"""Every command of the README, as typed, from another folder; training is cut short."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections import defaultdict

import cv2
import numpy as np
import pytest
import torch
import torchvision
from torchvision.models._api import WeightsEnum

from tasks.data.coco import CocoData
from tasks.search import platform_aware, stopwatch
from tasks.search.lab import Lab
from tasks.training import tuning
from tasks.training.fit import fit
from tests.conftest import ROOT
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import write_masks
from tests.tasks.data.written_formats import (
    write_cvat,
    write_flat_voc,
    write_labelme,
    write_roboflow_coco,
    write_yolo,
)  # fmt: skip
from tests.tasks.detection.test_task import write_shapes
from tests.tasks.files.written_tiffs import deepen
from tests.tasks.search.test_netadapt import multiply_adds, some_of_them
from tests.tasks.search.test_platform_aware import without_process
from tools import composition
from tools.cli import composed

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
EXPORTS = re.findall(r"^\| .* \| `(python .*?)` \|$", README.split("### Bring your own data")[1].split("```")[0], re.M)
SHORT = " trainer.accelerator=cpu trainer.limit_train_batches=1 trainer.limit_val_batches=1"
FEW = " data.num_train=4 data.num_val=2 data.num_objects=[48,24]"  # of the demo data


def write_camvid(root) -> None:
    for split in ("train", "val"):
        for name, picture in (
            (split, np.zeros((240, 320, 3), np.uint8)),
            (f"{split}annot", np.zeros((240, 320), np.uint8)),
        ):
            (root / name).mkdir(parents=True, exist_ok=True)
            for index in range(8):
                cv2.imwrite(str(root / name / f"{index}.png"), picture)


def write_raccoon(root) -> None:
    """As `write_shapes`, in one folder of images."""
    write_shapes(root, train=16)
    (root / "images").mkdir()
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        for image in content["images"]:
            name = f"{split}{image['file_name']}"
            (root / f"{split}2017" / image["file_name"]).rename(root / "images" / name)
            image["file_name"] = name
        (root / f"instances_{split}.json").write_text(json.dumps(content))


def write_imagenet(root) -> None:
    """Three validation images of two of the thousand classes."""
    for index, wnid in enumerate(("n01440764", "n01440764", "n02114548")):
        (root / "val" / wnid).mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(index).integers(0, 256, (260, 300, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "val" / wnid / f"{index}.JPEG"), picture)


def write_exports(root) -> None:
    """A set in the form of each annotation tool, and of each public set of masks."""
    write_shapes(root / "source", train=5, val=3)
    source = CocoData(str(root / "source"), num_workers=0)
    writers = {"yolo": write_yolo, "roboflow": write_roboflow_coco, "voc": write_flat_voc, "labelme": write_labelme,
               "cvat": write_cvat}  # fmt: skip
    for (name, write), split in itertools.product(writers.items(), ("train", "val")):
        write(root / name, split, source.ground_truth(split), source.folders[split])
    for split in ("train", "val"):
        truth, images = source.ground_truth(split), source.folders[split]
        for box in truth["annotations"]:
            x, y, w, h = box["bbox"]
            box["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        write_roboflow_coco(root / "outlines", split, truth, images)
        write_yolo(root / "polygons", split, truth, images, polygons=True)
    random, mask = np.random.default_rng(0), np.repeat([[0, 1, 2]], 40, 0).repeat(20, 1).astype(np.uint8)
    colors = np.array([[0, 0, 0], [0, 64, 128], [0, 0, 0]], np.uint8)[mask]  # BGR
    for split, name in (("train", "training"), ("val", "validation")):
        image = random.integers(0, 256, (40, 60, 3), np.uint8)
        for file, picture in {
            f"voc_masks/JPEGImages/{split}.jpg": image, f"voc_masks/SegmentationClass/{split}.png": mask,
            f"ade20k/images/{name}/1.jpg": image, f"ade20k/annotations/{name}/1.png": mask,
            f"colors/{split}/images/1.png": image, f"colors/{split}/masks/1_mask.png": colors,
        }.items():  # fmt: skip
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / file), picture)
        lists = root / "voc_masks/ImageSets/Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text(f"{split}\n")


def write_test_images(root) -> None:
    """Images without ground truth, as Cityscapes and COCO publish them for their servers."""
    image = np.zeros((64, 128, 3), np.uint8)
    (root / "cityscapes/leftImg8bit/test/bonn").mkdir(parents=True)
    cv2.imwrite(str(root / "cityscapes/leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png"), image)
    (root / "coco/test2017").mkdir()
    cv2.imwrite(str(root / "coco/test2017/1.jpg"), image)
    content = json.loads((root / "coco/annotations/instances_val2017.json").read_text())
    content = {"images": [{"id": 7, "file_name": "1.jpg"}], "categories": content["categories"]}
    (root / "coco/annotations/image_info_test-dev2017.json").write_text(json.dumps(content))


def train_here(command: list[str], log) -> str:
    """A search's training in this process, since a new one takes longer than all else."""
    words = command[command.index(str(ROOT / "tools" / "train.py")) + 1 :]
    os.environ.pop("MOBILE_DENSE_RUN", None)
    assert fit(composed("train", words))["steps"] > 0
    return ""


@pytest.mark.long
def test_each_export_of_the_table_is_read_by_its_command(run_tool, tmp_path):
    write_exports(tmp_path)
    assert len(EXPORTS) == 10
    for command in EXPORTS:
        status, out, err = run_tool(command.removeprefix("python ").replace("/path/to", str(tmp_path)))
        assert status == 0 and " 1.0000" in out, f"{command}\n{out}\n{err}"


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 10
    assert all(command.split()[0] in ("make", "python") for command in COMMANDS)


@pytest.mark.long
def test_the_commands_of_the_readme_work_as_typed(run_tool, tmp_path, monkeypatch):
    """In their order, since later ones use what earlier ones leave."""
    write_masks(tmp_path / "my_data", train=8, size=(64, 64))
    write_masks(tmp_path / "bands", train=8, size=(64, 64))
    deepen(tmp_path / "bands")
    write_camvid(tmp_path / "camvid")
    write_exports(tmp_path)
    write_shapes(tmp_path / "coco", train=16)
    write_test_images(tmp_path)
    write_raccoon(tmp_path / "raccoon")
    write_folders(tmp_path / "pets", train=8, size=(200, 240))
    write_imagenet(tmp_path / "imagenet")
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), tmp_path / "mobilenet_v2.pth")
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((60, 80, 3), np.uint8))
    detector = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: detector.state_dict())  # nothing is downloaded
    monkeypatch.setattr(tuning, "_run", train_here)
    monkeypatch.setattr(platform_aware, "in_own_process", without_process)
    monkeypatch.setattr(stopwatch, "measure", multiply_adds)
    monkeypatch.setattr(Lab, "touched", property(lambda lab: some_of_them(lab.build, lab.start)))
    stores = {"TRACKIO_DIR": tmp_path / "trackio", "MLFLOW_TRACKING_URI": f"file:{tmp_path / 'mlruns'}"}
    for name, place in (stores | {"MLFLOW_ALLOW_FILE_STORE": "true"}).items():  # which is made soonest
        monkeypatch.setenv(name, str(place))
    for command in COMMANDS:
        program, *words = command.replace("/path/to", str(tmp_path)).split(maxsplit=1)
        if program == "make" or "benchmarks/" in words[0] or "all=true" in words[0]:
            continue  # the next tests
        epochs = 2 if " checkpoint=" in words[0] else 1
        line = re.sub(r"max_epochs=\d+", f"max_epochs={epochs}", words[0]).replace("min_side=48", "min_side=8")
        if "train.py" in line or "tune.py" in line:
            line += FEW if not re.search("data=|experiment=| checkpoint=", line) else ""
            line += " data.batch_size=2" if " checkpoint=" not in line else ""
            line += SHORT + ("" if "max_epochs" in line else " trainer.max_epochs=1")
            line += " data.crop_size=[64,64]" if "data=masks" in line and "crop_size" not in line else ""
            line += " qat.batches=1" if "qat" in line else ""
            line += " trainer.check_val_every_n_epoch=1" if "raccoon" in line else ""  # which leaves best.ckpt
        line = re.sub(r"trials=\d+", "trials=1", line)
        if "platform_aware" in line:
            line = re.sub(r"image_size=\S+", "image_size=[64,128]", line).replace("runtime=onnx", "runtime=fused")
            line = f"{line.replace('steps=300', 'steps=1')}{FEW} data.batch_size=2 trainer.accelerator=cpu"
        if "method=netadapt" in line:
            line = re.sub(r"target_ms=\S+", "netadapt.target_share=0.95", line).replace("runtime=onnx", "runtime=fused")
            line = line.replace("steps=200", "steps=1") + " netadapt.final_steps=1 images=1 image_size=[64,128]" + SHORT
        line += " formats=false" if "doctor.py" in line else ""
        line += " image_size=[64,128]" if "benchmark.py" in line else ""
        status, out, err = run_tool(line)
        assert status == 0, f"{command}\n{out}\n{err}"
    run = tmp_path / "runs" / "segmentation-mnv3_large"
    names = re.findall(
        r"^\| `(.+?)`(?:, `(.+?)`)?(?:, `(.+?)`)? \|", README.split("| file | what |")[1].split("\n\n")[0], re.M
    )
    for name in filter(None, (name for row in names for name in row)):
        assert (run / name).exists(), f"the README promises {name}"
    assert (run / "evaluation.json").is_file()
    assert list((run / "predictions").glob("**/*_classes.png"))
    assert list((run / "predictions-test").glob("submission/*.png"))
    assert {
        one["image_id"] for one in json.loads((tmp_path / "runs/coco/predictions-test/predictions.json").read_text())
    } <= {7}


@pytest.mark.long
@pytest.mark.parametrize("kept", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_the_zoo_of_the_readme_is_described(kept, run_tool, monkeypatch):
    """The first of each family, or all of them."""
    (command,) = (command for command in COMMANDS if "all=true" in command)
    every, families = composition.every_choice("describe", "backbone", ()), defaultdict(list)
    for name, config in every.items():
        families[config["_target_"].rpartition(".")[0]].append(name)
    names = [name for family in families.values() for name in family[:kept]]
    assert len(names) > 15
    monkeypatch.setattr(composition, "every_choice", lambda *_: {name: every[name] for name in names})
    status, out, err = run_tool(command.removeprefix("python "))
    assert status == 0, err
    assert all(f" {name} " in out for name in names)


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "\n".join(COMMANDS), re.M))
def test_make_knows_its_targets(target):
    listed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr


# those that time nothing, or much more: (a short run, what it prints)
OTHERS = {
    "int8_hard_cases.py": (
        "--cases repvgg_a0-classification --formats onnx --train trainer.max_epochs=1 trainer.limit_train_batches=2",
        "repvgg_a0-classification (re-parameterised kernels): export.keep_float=",
    ),
    "export_time.py": ("--formats pt2", "pt2"),
    "export_zoo.py": ("--backbones mnv2_035 --tasks detection --formats onnx", "mnv2_035"),
    "relu_collapse.py": ("--draws 3", "comes back"),
    "block_latency.py": ("--runs 1 --runtimes fused --channels 8", "ratio to relu"),
    "equal_macs.py": ("--runs 1 --macs 10 --backbones mnv2 snv2_100", "ratio to the fastest"),
    "separable_cost.py": ("--runs 1 --channels 16 --kernels 3 --runtimes fused", "ratio of multiply-adds"),
    "mobileone_branches.py": ("--runs 1 --branches 1 2 --batch 2 --size 32 --runtimes fused", "training step"),
    "platform_aware_samplers.py": ("--steps 1 --networks 2 --seeds 2", "beats random"),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", [command.split()[1] for command in COMMANDS if "benchmarks/" in command])
def test_the_benchmarks_run_from_another_folder(script, tmp_path):
    short, said = OTHERS.get(script.rpartition("/")[2], ("--runs 1", "ratio"))
    command = [sys.executable, str(ROOT / script), *short.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
