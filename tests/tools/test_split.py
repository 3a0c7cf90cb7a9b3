"""The test split of a run's own data: evaluated and predicted by its name, in folders of their own."""

import json

import pytest

from tests.tasks.conftest import NAMES, write_masks


@pytest.mark.long
def test_the_test_split_has_its_own_scores_and_folders(run_tool, tmp_path):
    write_masks(tmp_path / "data", train=4, val=3)
    write_masks(tmp_path / "other", train=1, val=2)
    (tmp_path / "other/val").rename(tmp_path / "data/test")
    status, _, err = run_tool(
        f"tools/train.py task=segmentation backbone=mnv1_025 data=masks data.root=data "
        f"data.class_names=[{','.join(NAMES)}] data.crop_size=32 data.batch_size=2 data.num_workers=0 "
        "trainer.max_epochs=1 trainer.accelerator=cpu tensorboard=false output_dir=run"
    )
    assert status == 0, err
    for _ in range(2):  # the second time replaces the first
        status, out, err = run_tool("tools/evaluate.py checkpoint=run/best.ckpt split=test")
        assert status == 0 and "test/mIoU" in out, err
    found = json.loads((tmp_path / "run/evaluation-test/evaluation.json").read_text())
    assert found["images"] == 2 and "test/mIoU" in found and found["data"]["val_images"] == "test/images"
    assert not list((tmp_path / "run").glob("evaluation*-2")) and not (tmp_path / "run/evaluation.json").exists()
    status, _, err = run_tool("tools/predict.py checkpoint=run/best.ckpt split=test")
    assert status == 0, err
    folder = tmp_path / "run/predictions-test"
    assert len(list(folder.glob("*_classes.png"))) == 2 and (folder / "predictions.json").is_file()
    for words, message in (
        ("tools/predict.py checkpoint=run/best.ckpt split=val source=data", "give source=<image, folder or video>, or"),
        ("tools/evaluate.py checkpoint=run/best.ckpt split=test data.val_images=images data.val_masks=masks",
         "data.val_masks has no val that could become test; name the test split's own paths"),
        ("tools/evaluate.py checkpoint=run/best.ckpt split=train", "split=train: expected val or test"),
    ):  # fmt: skip
        status, _, err = run_tool(words)
        assert status == 1 and message in err
