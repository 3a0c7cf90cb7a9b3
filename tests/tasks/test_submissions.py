"""Predictions of a split are numbered as the data set is, its ground truth missing, in the form of its benchmark."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from heads.nms import Detections
from tasks import predict as prediction
from tasks.base.build import build_data
from tasks.data.ade20k import ade20k_classes
from tasks.data.cityscapes import EVALUATED, CityscapesData
from tasks.data.classes import Classes
from tasks.data.coco import CocoData
from tasks.data.voc_masks import VOC_MASK_CLASSES
from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.files.images import read_mask
from tasks.files.writing import write_image
from tasks.segmentation.predictor import SegmentationPredictor
from tasks.values.errors import DataError
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import write_shapes


class Stub:
    """As much of a task as predicting needs: it is told what it finds."""

    def __init__(self, names):
        self.classes = Classes(tuple(names), tuple((k, k, 9) for k in range(len(names))))

    def parameters(self):
        return iter([torch.zeros(1)])

    def resized(self, images):
        return images

    def evaluate_images(self, images, size):
        return images

    def predict(self, raw, sizes):  # px of a class have its label as their red
        return [raw[0, 0].to(torch.uint8)]


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """predicted(predictor, words ...) -> the folder."""

    def run(predictor, *words):
        monkeypatch.setattr(prediction, "build_predictor", lambda config: predictor)
        folder, _ = prediction.predict(
            composed("predict", "checkpoint=x.ckpt", "split=test", f"output_dir={tmp_path / 'out'}", *words)
        )
        return folder

    return run


def write_labels(file, labels: np.ndarray) -> None:
    """An image whose red tells the label, as `Stub` finds it."""
    write_image(file, np.repeat(labels[..., None], 3, axis=2).astype(np.uint8))


SIZE = (24, 32)
KINDS = {  # image of the test set, list of the images, file of the benchmark, classes, id of label k
    "cityscapes": ("leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png", None,
                   "bonn_000000_000019_leftImg8bit.png", tuple(EVALUATED), [row[0] for row in EVALUATED.values()]),
    "ade20k": ("images/testing/ADE_test_00000001.png", None, "ADE_test_00000001.png", tuple(ade20k_classes()),
               range(1, 151)),
    "voc_masks": ("JPEGImages/2008_000001.png", "ImageSets/Segmentation/test.txt", "2008_000001.png",
                  VOC_MASK_CLASSES, range(21)),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_masks_of_a_test_set_are_in_its_own_ids(tmp_path, predicted, name):
    image, listed, target, names, ids = KINDS[name]
    labels = np.random.default_rng(0).integers(0, len(names), SIZE)
    write_labels(tmp_path / "data" / image, labels)
    if listed:
        (tmp_path / "data" / listed).parent.mkdir(parents=True)
        (tmp_path / "data" / listed).write_text("2008_000001\n")
    predictor = SegmentationPredictor(Stub(names), None, opacity=0.5)
    words = ("task=segmentation", f"data={name}", f"data.root={tmp_path / 'data'}")
    folder = predicted(predictor, *words, "overlays=false")
    (file,) = (folder / "submission").rglob("*.png")
    assert file.name == target and not list(folder.rglob("*_overlay.png"))
    with Image.open(file) as picture:
        assert picture.mode == ("P" if name == "voc_masks" else "L") and picture.size == SIZE[::-1]
        assert (np.array(picture) == np.array(ids)[labels]).all()
    assert (read_mask(next(folder.glob("*_classes.png"))) == labels).all()
    assert predicted(predictor, *words) == folder, "the second time replaces the first"
    assert len(list(folder.rglob("*_overlay.png"))) == 1


def test_what_was_submitted_is_read_back_as_the_same_classes(tmp_path, predicted):
    labels = np.random.default_rng(0).integers(0, 3, SIZE)
    write_labels(tmp_path / "data/leftImg8bit/test/bonn/a_leftImg8bit.png", labels)
    words = ("task=segmentation", "data=cityscapes", f"data.root={tmp_path / 'data'}")
    predictor = SegmentationPredictor(Stub(["car", "sky", "road"]), None, opacity=0.5)
    folder = predicted(predictor, *words, "data.class_names=[road,car,sky]")
    truth = tmp_path / "data/gtFine/test/bonn/a_gtFine_labelIds.png"
    truth.parent.mkdir(parents=True)
    (folder / "submission/a_leftImg8bit.png").rename(truth)
    options = {"crop_size": 8, "batch_size": 1, "num_workers": 0, "class_names": ["car", "sky", "road"]}
    assert (CityscapesData(str(tmp_path / "data"), val="test", **options).dataset("val").read(0)[1] == labels).all()


def test_other_classes_than_the_datas_leave_no_submission_and_say_so(tmp_path, predicted, caplog):
    write_labels(tmp_path / "data/leftImg8bit/test/bonn/a_leftImg8bit.png", np.zeros(SIZE))
    words = ("task=segmentation", "data=cityscapes", f"data.root={tmp_path / 'data'}")
    folder = predicted(SegmentationPredictor(Stub(["road", "lorry"]), None, opacity=0.5), *words)
    assert not (folder / "submission").exists() and "results are not numbered as the data is: 'lorry'" in caplog.text


def listing(root) -> CocoData:
    """COCO's official folders, of whose test set only a list of images is there."""
    write_shapes(root)
    (root / "val2017").rename(root / "test2017")
    file = root / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    del content["annotations"]
    file.unlink()
    (root / "annotations/image_info_test-dev2017.json").write_text(json.dumps(content))
    return content


def test_boxes_of_a_mere_list_of_images_have_its_ids(tmp_path, predicted, monkeypatch):
    content = listing(tmp_path / "data")
    predictor = DetectionPredictor(Stub(["disc", "square"]), 32, min_score=None)
    found = Detections(torch.tensor([[1.0, 2, 11, 22]] * 2), torch.tensor([0.9, 0.5]), torch.tensor([0, 1]))
    monkeypatch.setattr(DetectionPredictor, "find", lambda self, image: found)
    words = ("task=detection", "data=coco", f"data.root={tmp_path / 'data'}")
    folder = predicted(predictor, *words, "overlays=false")
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.json", "predictions_source.json"]
    entries = json.loads((folder / "predictions.json").read_text())
    ids, sides = {one["file_name"]: one["id"] for one in content["images"]}, {"disc": 44, "square": 18}
    assert sorted({one["image_id"] for one in entries}) == sorted(ids.values()) and len(entries) == 2 * len(ids)
    for one in entries:
        assert ids[one["file_name"]] == one["image_id"] and sides[one["category"]] == one["category_id"]
        assert one["bbox"] == [1, 2, 10, 20]

    # what is left is judged as the server would
    truth = json.loads((tmp_path / "data/annotations/instances_train2017.json").read_text()) | {
        "images": content["images"], "annotations": [
            {"id": k, "image_id": one["id"], "category_id": 44, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0}
            for k, one in enumerate(content["images"], 1)
        ]
    }  # fmt: skip
    results = DetectionResults.from_json(folder / "predictions.json")  # by its ids alone
    assert evaluate_boxes(GroundTruth.from_coco(truth), results, engine="fast").numbers["AP"] == pytest.approx(1)


def test_a_mere_list_of_images_cannot_be_judged(tmp_path):
    listing(tmp_path / "data")
    paths = {"val_images": "test2017", "val_json": "annotations/instances_test2017.json"}
    data = CocoData(str(tmp_path / "data"), **paths, num_workers=0)
    for judged in (lambda: data.setup("validate"), lambda: data.ground_truth("val"), lambda: data.dataset("val")):
        with pytest.raises(DataError, match=r"image_info_test-dev2017\.json lists images without annotations, so"):
            judged()
    (tmp_path / "data/test2017/001.png").unlink()
    with pytest.raises(DataError, match=r"test-dev2017\.json: 1 of the 5 images are not in .*, the first: 001\.png"):
        data.images("val")
    words = (f"data.root={tmp_path / 'data'}", *(f"data.{key}={value}" for key, value in paths.items()))
    outlines = composed("predict", "checkpoint=x", "task=segmentation", "data=coco_masks", *words)
    with pytest.raises(DataError, match="lists images without annotations"):
        build_data(outlines).setup("validate")


def test_a_training_set_without_annotations_is_refused(tmp_path):
    write_shapes(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"instances_train2017\.json has no list 'annotations'"):
        CocoData(str(tmp_path), num_workers=0).annotations("train")
