"""What a user sees: a line or two on bad input, no traceback; a tool works from any folder, uninstalled."""

import contextlib
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from tasks.base.build import build_whole_network
from tasks.base.checkpoint import read_checkpoint, save_fused
from tasks.base.result_folders import EVALUATION_FILES
from tasks.describe import describe_zoo
from tasks.files.images import read_mask
from tasks.training.fit import fit
from tests.conftest import ROOT
from tests.oracles import randomised
from tests.tasks.conftest import composed, write_masks
from tools.cli import composed as composed_in_program
from tools.cli import guarded

MASKS = "tools/train.py task=segmentation data=masks data.root=data data.class_names=[background,disc,bar]"
QUICK = " trainer.accelerator=cpu data.batch_size=2 data.crop_size=[32,32] trainer.max_epochs=1"


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """A folder with data/ and a run/ on it."""
    root = tmp_path_factory.mktemp("one")
    write_masks(root / "data")
    with contextlib.chdir(root), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MOBILE_DENSE_RUN", raising=False)
        words = f"{MASKS}{QUICK} backbone=mnv1_025 ema_decay=0.9 output_dir=run".split()[1:]
        fit(composed_in_program("train", words))
        patch.delenv("MOBILE_DENSE_RUN", raising=False)
    return root


@pytest.fixture
def trained(one_run, tmp_path):
    """The current folder has data/ and a run/ on it."""
    shutil.copytree(one_run, tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("tools/train.py", "no task is chosen; give task=segmentation"),
        (
            "tools/train.py task=segmentaton",
            "there is no such task; did you mean segmentation?",
        ),
        ("tools/train.py task=segmentation backbone=mnv3_larg", "there is no such backbone; did you mean mnv3_large"),
        ("tools/train.py task=segmentation seeed=1", "no key seeed; did you mean seed?"),
        ("tools/train.py task=segmentation +seeed=1", "no key seeed; did you mean seed?"),
        ("tools/train.py task=segmentation lr=1", "lr=: no key lr; did you mean optimizer.lr?"),
        ("tools/predict.py task=segmentation source=x", "no checkpoint is given; give checkpoint="),
        ("tools/train.py head=lraspp", "head= goes with a task, and none is chosen; give task=<name>"),
        ("tools/train.py task=3", "task=3: expected the name of one"),
        ("tools/train.py task=segmentation seed=1.5", "seed=1.5: Value '1.5' of type 'float' could not be converted"),
        ("tools/evaluate.py checkpoint=runs/e=3/x", "it needs quotes, within those of the shell: 'checkpoint="),
        ("tools/train.py task=segmentation data=masks data.root=a,b", """for a list, 'data.root="a,b"' for a text"""),
        ("tools/train.py task=segmentation backbone.widht=1", "no key widht in backbone; did you mean width"),
        ("tools/train.py task=segmentation trainer.max_epoch=1", "did you mean max_epochs"),
        ("tools/train.py task=segmentation data=cityscapes data.root=nowhere", "no folder nowhere/leftImg8bit/train"),
        ("tools/train.py task=segmentation data=masks", "data.root is not set; give data.root=<value>"),
        (f"{MASKS} head.skips=[c9]", "head.skips: the backbone has no tap c9; it offers: "),
        (f"{MASKS} backbone.output_stride=12", "output_stride=12: expected one of (8, 16, 32)"),
        (f"{MASKS} head=lraspp_paper", "Take pool=large_scaled or pool=global"),
        (f"{MASKS} backbone.weights=absent.pth", "no weights at absent.pth"),
        (f"{MASKS} task.class_weights=[1,2]", "class_weights"),
        (f"{MASKS} data.batch_size=100", "set data.batch_size to at most that"),
        (f"{MASKS} checkpoint=absent.ckpt", "no checkpoint at absent.ckpt"),
        ("tools/evaluate.py", "no checkpoint is given; give checkpoint="),
        ("tools/evaluate.py checkpoint=absent.ckpt", "no checkpoint at absent.ckpt"),
        ("tools/predict.py checkpoint=data/text.ckpt source=x", "cannot be read as a checkpoint"),
        ("tools/describe.py backbone=resnet", "there is no such backbone"),
        (
            "tools/export.py export=[onnx,litrt]",
            "export=litrt: there is no such export; did you mean litert? choose one of all, coreml",
        ),
        ("tools/data.py data=masks data.root=data data.class_names=[a] action=clean", "action=clean: expected check"),
        ("tools/data.py data=masks data.root=data data.class_names=[a]", "problems"),
        (
            "tools/data.py data=masks data.root=data data.class_names=[a] splits=[test]",
            "no split test; expected train or",
        ),
        (f"{MASKS} optimizer.lr=abc", "optimizer does not take its settings"),
        (f"{MASKS} +optimizer.foo=1", "optimizer does not take its settings"),
        (f"{MASKS} backbone.width=abc", "mobilenet_v3_large does not take its settings"),
        (f"{MASKS} backbone.in_channels=4", "set backbone.in_channels=3, or 1 for their luminance"),
        (f"{MASKS} task.freeze=c6", "the backbone has no c6; it has c1, c2"),
        (f"{MASKS} backbone.weights=timm:v9", "timm has no weights v9 of mobilenetv3_large_100; it has"),
        ("tools/import_weights.py output=x.pth", "no source is given; give source=<file>"),
        ("tools/import_weights.py source=absent.pth output=x.pth", "no weights at absent.pth"),
        (
            "tools/data.py data=masks data.root=data data.class_names=[a] data.crop_size=64x64",
            "data.crop_size=64x64: expected a number of px for a square, or [H, W]",
        ),
        (f"{MASKS} trainer.devices=0", "devices"),
        (f"{MASKS} head=lraspp_paddle", "set backbone.output_stride=8"),
    ],
)
def test_bad_input_is_one_or_two_lines_that_name_it(run_tool, tmp_path, command, message):
    write_masks(tmp_path / "data")
    (tmp_path / "data" / "text.ckpt").write_text("text")
    status, out, err = run_tool(
        command + (QUICK if "data=masks" in command and "batch_size" not in command and "train.py" in command else "")
    )
    lines = [line for line in err.splitlines() if line.strip()]
    assert status == 1, out + err
    assert message in lines[-1], err
    assert lines[-1].startswith("error: ")
    assert len(lines) <= 2, err
    assert "Traceback" not in out + err


def test_a_damaged_mask_is_named_by_a_loader_process_too(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    cv2.imwrite(str(tmp_path / "data/train/masks/002.png"), np.full((48, 64), 7, np.uint8))
    for workers in (0, 1):
        status, _, err = run_tool(f"{MASKS}{QUICK} data.num_workers={workers}")
        lines = [line for line in err.splitlines() if line.strip()]
        assert status == 1
        assert "002.png holds the class id 7; the data set defines 0-2" in lines[-1]
        assert len(lines) <= 2, err


def test_train_resume_evaluate_predict(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    assert run_tool(f"{MASKS}{QUICK} backbone=mnv3_small output_dir=run")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run"}, "nothing else is left lying about"
    status, _, err = run_tool("tools/train.py checkpoint=run/last.ckpt trainer.max_epochs=2")
    assert status == 0, err
    assert json.loads((tmp_path / "run/metrics.json").read_text())["epochs"] == 2
    status, _, err = run_tool("tools/train.py checkpoint=run/last.ckpt trainer.max_epochs=3 backbone.width=0.5")
    assert status == 1
    assert "size mismatch" in err and len(err.splitlines()) <= 2
    status, _, err = run_tool("tools/train.py backbone=mnv3_large checkpoint=run/last.ckpt")
    assert status == 1
    assert "was trained with backbone=mnv3_small, which stays" in err
    assert run_tool("tools/train.py backbone=mnv3_small checkpoint=run/last.ckpt trainer.max_epochs=3")[0] == 0

    command = "tools/evaluate.py checkpoint=run/best.ckpt output_dir=evaluation task.tta_flip=true boundary_iou=true"
    status, _, err = run_tool(command)
    assert status == 0, err
    scores = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    each = [scores[f"val/boundary_IoU/{name}"] for name in ("background", "disc", "bar")]
    assert scores["val/boundary_mIoU"] == pytest.approx(sum(one for one in each if one is not None) / 3)
    rows = (tmp_path / "evaluation/confusion.csv").read_text().splitlines()
    assert rows[0] == "true class,background,disc,bar" and (tmp_path / "evaluation/confusion.png").is_file()
    assert 0 < sum(int(count) for row in rows[1:] for count in row.split(",")[1:]) <= 3 * 48 * 64, "some are ignored"
    assert scores["images"] == 3 and scores["input_size"] == "48x64"
    assert scores["data"]["root"] == "data" and scores["task"]["tta_flip"]
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} <= {*EVALUATION_FILES}
    assert (tmp_path / "evaluation/evaluation.png").is_file()
    write_masks(tmp_path / "other")
    names = "data.class_names=[background,disc,pole]"
    status, _, err = run_tool(f"tools/evaluate.py checkpoint=run/best.ckpt data=masks data.root=other {names}")
    assert status == 1
    assert "evaluate on data with the same classes" in err
    assert run_tool("tools/evaluate.py checkpoint=run/best.ckpt data.root=other")[0] == 0

    status, _, err = run_tool("tools/predict.py checkpoint=run/best.ckpt source=data/val/images/000.png output_dir=p")
    assert status == 0, err
    mask = read_mask(tmp_path / "p/000_classes.png")
    assert mask.shape == (48, 64) and mask.max() <= 2
    shares = json.loads((tmp_path / "p/predictions.json").read_text())["000.png"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert run_tool("tools/predict.py checkpoint=run/best.ckpt source=data/val image_size=[32,32] output_dir=q")[0] == 0
    assert read_mask(tmp_path / "q/images/001_classes.png").shape == (48, 64)


@pytest.mark.long
def test_a_shortened_training_does_not_shorten_the_evaluation(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    assert run_tool(f"{MASKS}{QUICK} backbone=mnv1_025 output_dir=run trainer.limit_val_batches=1")[0] == 0
    assert run_tool("tools/evaluate.py checkpoint=run/best.ckpt output_dir=all")[0] == 0
    assert run_tool("tools/evaluate.py checkpoint=run/best.ckpt output_dir=one trainer.limit_val_batches=1")[0] == 0
    counts = [json.loads((tmp_path / name / "evaluation.json").read_text())["images"] for name in ("all", "one")]
    assert counts == [3, 1]


@pytest.mark.long
def test_predict_loses_no_picture(run_tool, tmp_path, trained):
    """Pictures of one name each get their result, and one that is broken does not take the others along."""
    (tmp_path / "p").mkdir()
    for name in ("a.jpg", "a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "p" / name), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "p" / "c.png").write_bytes(b"broken")
    status, _, err = run_tool("tools/predict.py checkpoint=run/best.ckpt source=p output_dir=q")
    assert status == 1
    assert "1 of 4 pictures cannot be read; the others are done" in err and "c.png" in err
    written = {path.name for path in (tmp_path / "q").glob("*_overlay.png")}
    assert written == {"a.jpg_overlay.png", "a.png_overlay.png", "b_overlay.png"}


def test_an_unforeseen_error_leaves_its_traceback_in_a_file():
    def fail():
        raise RuntimeError("first line" + 3 * "\n" + "wall")

    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as err:
        guarded(fail)
    first, second = err.getvalue().splitlines()
    assert first == "error: first line"
    assert "in fail" in Path(second.split()[-1].rstrip(")")).read_text()


def test_predict_takes_a_video(run_tool, tmp_path, trained):
    from tasks.files.videos import VideoWriter, frames

    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for level in range(5):
            writer.write(np.full((64, 96, 3), 40 * level, np.uint8))
    status, _, err = run_tool("tools/predict.py checkpoint=run/best.ckpt source=clip.mp4 output_dir=p")
    assert status == 0, err
    assert len(list(frames(tmp_path / "p/clip_overlay.mp4"))) == 5
    status, _, err = run_tool("tools/predict.py checkpoint=run/best.ckpt source=clip.mp4 output_dir=q overlays=false")
    assert status == 0, err
    assert sorted(path.name for path in (tmp_path / "q").iterdir()) == ["predictions.json", "predictions_source.json"]
    assert (tmp_path / "q/predictions.json").read_text() == (tmp_path / "p/predictions.json").read_text()


def test_scores_of_evaluate_are_those_of_training(run_tool, tmp_path, trained):
    trained = json.loads((tmp_path / "run/metrics.json").read_text())
    assert run_tool("tools/evaluate.py checkpoint=run/last.ckpt")[0] == 0
    evaluated = json.loads((tmp_path / "run/evaluation.json").read_text())
    for key in ("val/mIoU", "val/pixel_accuracy", "val/IoU/disc"):
        assert evaluated[key] == pytest.approx(trained[key], abs=1e-6)


def test_describe_writes_the_same_numbers_as_json(run_tool, tmp_path):
    words = "backbone=mnv3_large backbone.widths={stage3.out:44}"
    status, out, _ = run_tool(f"tools/describe.py {words} output_json=cost.json")
    assert status == 0
    described = json.loads((tmp_path / "cost.json").read_text())
    costs, widths = described["costs"], described["widths"]
    assert widths["stage3.out"] == 44 and widths["block4.expand"] == 72 and next(iter(widths)) == "stem"
    assert re.search(r"stage3\.out +│ +44 ", out)
    assert f"{costs['trained']['parameters'] / 1e6:,.3f}" in out
    assert costs["fused"]["memory_access_bytes"] < costs["trained"]["memory_access_bytes"]
    assert costs["fused"]["macs"] == costs["trained"]["macs"]
    status, out, _ = run_tool("tools/describe.py task=segmentation head=lraspp_tv num_classes=21 image_size=[520,520]")
    assert "3.222" in out and "2,086" in out, "torchvision's published counts of its LR-ASPP"


@pytest.mark.long
def test_foreign_weights_become_a_file_of_ours(run_tool, tmp_path):
    import timm
    import torch
    import torchvision

    oracle = randomised(torchvision.models.mobilenet_v3_small(weights=None))
    torch.save(oracle.state_dict(), tmp_path / "theirs.pth")
    torch.save(randomised(timm.create_model("mobilenetv3_small_100")).state_dict(), tmp_path / "timms.pth")
    for source, library in (("theirs.pth", "torchvision"), ("timms.pth", "timm")):
        command = f"tools/import_weights.py backbone=mnv3_small source={source} output={library}.pth"
        status, out, err = run_tool(f"{command} mean=[0.5,0.5,0.5] output_json={library}.json")
        assert status == 0, err
        report = json.loads((tmp_path / f"{library}.json").read_text())
        assert report["reference"] == report["naming"] == library
        assert report["compared"] == 52 and report["relative_error"] < 1e-5, "all its convolutions"
        assert report["fused_error"] < 1e-9
        assert f"{report['relative_error']:.1e} over 52 convolutions" in out
    torch.save({f"backbone.{key}": tensor for key, tensor in oracle.state_dict().items()}, tmp_path / "prefixed.pth")
    command = "tools/import_weights.py backbone=mnv3_small source=prefixed.pth output=p.pth output_json=p.json"
    assert run_tool(command)[0] == 0
    report = json.loads((tmp_path / "p.json").read_text())
    assert report["reference"] is None and report["relative_error"] is None, "nothing was compared, nothing is claimed"
    status, out, err = run_tool("tools/import_weights.py backbone=mnv3_small source=theirs.pth output=timm.pth")
    assert status == 1 and "timm.pth exists; choose another output=" in err

    config = composed("train", "task=segmentation", "backbone=mnv3_small", "backbone.weights=torchvision.pth")
    network = build_whole_network(config, 3)
    assert network.mean.flatten().tolist() == [127.5] * 3
    assert torch.equal(network.backbone.layers[0].conv.weight, oracle.features[0][0].weight)


@pytest.mark.long
def test_a_fused_checkpoint_evaluates_and_is_not_trained_on(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    assert run_tool(f"{MASKS}{QUICK} backbone=mobileone_s0 backbone.width=0.25 output_dir=run")[0] == 0
    save_fused(tmp_path / "run/best.ckpt", tmp_path / "fused.ckpt")
    assert not any("norm" in name for name in read_checkpoint(tmp_path / "fused.ckpt")["state_dict"])
    scores = []
    for name in ("run/best.ckpt", "fused.ckpt"):
        status, _, err = run_tool(f"tools/evaluate.py checkpoint={name} output_dir={Path(name).stem}")
        assert status == 0, err
        scores.append(json.loads((tmp_path / Path(name).stem / "evaluation.json").read_text()))
    assert scores[0]["val/loss"] == pytest.approx(scores[1]["val/loss"], rel=1e-4)
    reason = "is fused: its branches and norms are merged into single convolutions, which cannot be trained on"
    resume = "tools/train.py checkpoint=fused.ckpt trainer.max_epochs=2"
    for command in (resume, f"{MASKS}{QUICK} backbone=mobileone_s0 backbone.weights=fused.ckpt"):
        status, _, err = run_tool(command)
        assert status == 1 and reason in err and len(err.splitlines()) == 1, err


def test_the_zoos_rows_hold_both_forms_and_what_was_published():
    row = describe_zoo((64, 64), {"mobileone_s0": composed("train", "backbone=mobileone_s0").backbone})["backbones"][0]
    assert row["trained"]["parameters"] > row["fused"]["parameters"] and row["published"]["top1"] == 71.4
    assert row["family"] == "mobileone" and row["trained"]["depth"] == 170 and row["fused"]["depth"] == 43


def test_help_lists_the_choices(run_tool):
    status, out, _ = run_tool("tools/train.py --help")
    assert status == 0
    choices = next(line for line in out.splitlines() if line.startswith("backbone: "))
    assert {"mnv3_large", "mobileone_s0"} <= set(choices.removeprefix("backbone: ").split(", "))


@pytest.mark.long
def test_jobs_of_a_sweep_go_by_their_own_checkpoints_and_outlive_one_another(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    for backbone in ("mnv3_small", "mnv1_025"):
        assert run_tool(f"{MASKS}{QUICK} backbone={backbone} 'output_dir=\"{backbone}=a, b\"'")[0] == 0
    paths = [f"\\'{backbone}=a, b/best.ckpt\\'" for backbone in ("mnv3_small", "mnv1_025")]
    status, _, err = run_tool(f'tools/evaluate.py -m "checkpoint={paths[0]},absent.ckpt,{paths[1]}"'.replace("\\", ""))
    assert status == 1
    assert "error in checkpoint=absent.ckpt: no checkpoint at absent.ckpt" in err
    assert err.splitlines()[-1] == "error: 1 of 3 jobs failed: checkpoint=absent.ckpt" and "Traceback" not in err
    for backbone in ("mnv3_small", "mnv1_025"):
        scored = json.loads((tmp_path / f"{backbone}=a, b" / "evaluation.json").read_text())
        trained = json.loads((tmp_path / f"{backbone}=a, b" / "metrics.json").read_text())
        assert scored["val/mIoU"] == pytest.approx(trained["best/mIoU"], abs=1e-6), "by its own network"
    status, _, err = run_tool(
        f'tools/evaluate.py -m backbone=mnv1_025 "checkpoint={paths[1]},{paths[0]}"'.replace("\\", "")
    )
    assert status == 1 and "was trained with backbone=mnv3_small, which stays" in err and "1 of 2 jobs failed" in err


def test_train_and_evaluate_return_the_score_that_a_sweeper_optimises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    write_masks(tmp_path / "data")
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "test")
    words = f"{MASKS}{QUICK} backbone=mnv3_small output_dir=run".split()[1:]
    test = ["data.val_images=test/images", "data.val_masks=test/masks"]
    score = runpy.run_path(str(ROOT / "tools" / "train.py"))["train"](composed("train", *words, *test))
    assert score == json.loads((tmp_path / "run" / "metrics.json").read_text())["best/mIoU"]
    stored = read_checkpoint(tmp_path / "run" / "best.ckpt")["config"]
    config = OmegaConf.create({**composed("evaluate"), **stored, "checkpoint": "run/best.ckpt", "output_dir": "scores"})
    report = runpy.run_path(str(ROOT / "tools" / "evaluate.py"))["report"]
    assert report(config) == pytest.approx(score, abs=1e-6)
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert scores["test/mIoU"] == pytest.approx(score, abs=1e-6) and not any(key.startswith("val/") for key in scores)


def test_a_tool_works_as_a_script_from_any_folder(tmp_path):
    """Uninstalled, beside a foreign package that is called tasks."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise ImportError('foreign')")
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "task=segmentation", "--cfg", "job"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_target_: tasks.segmentation.task.SegmentationTask" in done.stdout


def test_a_checkpoints_configuration_is_registered_no_longer_than_it_takes(run_tool, trained):
    before = set(ConfigStore.instance().repo)
    assert run_tool("tools/describe.py checkpoint=run/last.ckpt image_size=64")[0] == 0
    assert run_tool("tools/describe.py checkpoint=run/last.ckpt image_siez=64")[0] == 1
    assert composed_in_program("predict", ["checkpoint=run/last.ckpt"]).backbone.width == 0.25
    assert set(ConfigStore.instance().repo) == before
