"""Scores of a test split are not called those of the validation split."""

import pytest

from tasks.data.evaluated_split import evaluated_split, renamed


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
