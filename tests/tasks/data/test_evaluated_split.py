"""Scores of a test split are not called those of the validation split."""

import pytest

from tasks.data.evaluated_split import at_split, evaluated_split, renamed


@pytest.mark.parametrize(("settings", "split"), [
    ({"val_images": "test", "val_masks": "testannot"}, "test"), ({"val": "test"}, "test"),
    ({"val_images": "val2017", "val_json": "annotations/image_info_test-dev2017.json"}, "test"),
    ({"val_json": "instances_test.json"}, "test"), ({"val_sets": ["VOC2007/test"]}, "test"),
    ({"val_images": "set/test/images"}, "test"), ({"val_images": "Test\\\\images"}, "test"),
    ({"val_images": "val2017", "val_json": "annotations/instances_val2017.json"}, "val"),
    ({"root": "data/test", "val": "val", "val_batch_size": 1}, "val"), ({"val_images": "latest/val"}, "val"),
    ({"val": "testimony"}, "val"), ({"train_images": "test", "val_images": None}, "val"), ({}, "val"),
])  # fmt: skip
def test_a_split_is_known_by_the_name_of_its_files(settings, split):
    assert evaluated_split(settings) == split


def test_only_scores_of_the_split_are_renamed():
    scores = {"val/mIoU": 0.5, "val/IoU/val/x": 0.1, "val/top1@96": 1.0, "images": 3}
    assert renamed(scores, "test") == {"test/mIoU": 0.5, "test/IoU/val/x": 0.1, "test/top1@96": 1.0, "images": 3}
    assert renamed(scores, "val") == scores


@pytest.mark.parametrize(("settings", "changed"), [
    ({"val": "val"}, {"val": "test"}), ({"val_sets": ["VOC2007/val", "val"]}, {"val_sets": ["VOC2007/test", "test"]}),
    ({"val_images": "valid/images"}, {"val_images": "test/images"}),
    ({"val_images": "val", "val_masks": "valannot"}, {"val_images": "test", "val_masks": "testannot"}),
    ({"val_images": "a\\validation", "val_json": "VAL.json"}, {"val_images": "a\\test", "val_json": "test.json"}),
    ({"val_images": "interval_val2017"}, {"val_images": "interval_test2017"}), ({"val": "test"}, {"val": "test"}),
])  # fmt: skip
def test_the_validation_settings_can_name_the_test_split(settings, changed):
    others = {"root": "data/val", "train": "val", "val_batch_size": 3, "flip": 0.5}
    assert at_split(others | settings, "test") == others | changed
    assert at_split(others | settings, "val") == others | settings


def test_a_split_that_no_setting_names_is_refused():
    with pytest.raises(ValueError, match=r"split=test: data\.val_images has no val .*; name the test split's own"):
        at_split({"root": "x", "val_images": "pictures", "val_batch_size": 2}, "test")
    with pytest.raises(ValueError, match="split=test: the data has no val that could become test"):
        at_split({"root": "x"}, "test")
    with pytest.raises(ValueError, match="split=train: expected val or test"):
        at_split({"val": "val"}, "train")
