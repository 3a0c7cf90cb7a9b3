"""Pictures of detection: boxes and labels in their places, sheets that cut nothing off, curves that tell the truth."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.pictures import DetectionSample, detection_sheet, precision_recall_picture
from tasks.detection.results import DetectionResults
from tasks.files.images import read_image
from tasks.pictures.boxes import draw_boxes
from tasks.pictures.colors import distinct_colors

PALETTE = np.array([[200, 30, 40], [20, 160, 60], [240, 230, 90]], dtype=np.uint8)
NAMES = ["raccoon", "cat", "traffic light"]
GREY = 128


def plain(height, width):
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def where(picture, color):
    """Rows and columns, (2, P), of the pixels of a colour."""
    return np.stack(np.nonzero((picture == np.array(color, np.uint8)).all(axis=-1)))


def extent(picture, color):
    """left, top, right, bottom of the pixels of a colour."""
    rows, columns = where(picture, color)
    return columns.min(), rows.min(), columns.max(), rows.max()


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_box_is_drawn_at_its_place_in_the_color_of_its_class(kind):
    image = plain(400, 600)
    picture = draw_boxes(image, kind([[100.0, 150, 300, 350]]), kind([1]), kind([0.5]), NAMES, PALETTE)
    assert picture.shape == image.shape and (image == GREY).all()  # the image itself stays
    np.testing.assert_allclose(extent(picture[170:], PALETTE[1]), (100, 0, 300, 350 - 170), atol=2)
    assert (picture[180:340, 110:290] == GREY).all()  # nothing fills the box
    assert not where(picture, PALETTE[0]).size
    outside = picture.copy()
    outside[120:360, 90:310] = GREY
    assert (outside == GREY).all()


def test_boxes_of_an_enlarged_picture_move_with_it():
    picture = draw_boxes(plain(60, 80), [[20, 30, 60, 50]], [1], [0.5], NAMES, PALETTE)
    assert picture.shape == (240, 320, 3)
    np.testing.assert_allclose(extent(picture[125:], PALETTE[1]), (80, 0, 240, 200 - 125), atol=2)


def test_ground_truth_has_a_label_without_a_score():
    truth = draw_boxes(plain(400, 600), [[100, 150, 300, 350]], [1], None, NAMES, PALETTE)
    guess = draw_boxes(plain(400, 600), [[100, 150, 300, 350]], [1], [0.5], NAMES, PALETTE)
    widths = [np.ptp(where(picture[:148], PALETTE[1])[1]) for picture in (truth, guess)]
    assert 20 < widths[0] < widths[1]


@pytest.mark.parametrize("size", [(40, 60), (300, 500), (480, 640), (2000, 3000), (100, 900), (900, 100)])
@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (-0.5, -0.5, 0.2, 0.2), (0.9, 0, 1, 0.1), (0.8, 0.9, 1.3, 1.4), (0, 0.4, 0.1, 0.6)]
)
def test_labels_stay_inside_pictures_of_any_size(size, box):
    height, width = size
    picture = draw_boxes(plain(*size), np.array([box]) * [width, height, width, height], [2], [0.87], NAMES, PALETTE)
    factor = max(1, 320 // max(size))
    assert picture.shape == (height * factor, width * factor, 3)
    # A label that were cut off at an edge would miss some of its ink: as much of it as in the middle of the picture.
    middle = np.array([[0.4, 0.5, 0.6, 0.9]]) * [width, height, width, height]
    whole = draw_boxes(plain(*size), middle, [2], [0.87], NAMES, PALETTE)
    inks = [where(one, (0, 0, 0)).shape[1] for one in (picture, whole)]
    assert inks[0] == inks[1] > 20


def test_lines_and_letters_grow_with_the_picture():
    heights, lines = [], []
    for scale in (1, 2, 6):
        box = np.array([[200, 150, 500, 350]]) * scale
        picture = draw_boxes(plain(400 * scale, 600 * scale), box, [0], [0.5], NAMES, PALETTE)
        heights.append(150 * scale - where(picture, PALETTE[0])[0].min())
        row = picture[300 * scale, : 300 * scale]
        lines.append(np.count_nonzero((row == PALETTE[0]).all(axis=-1)))
    assert heights[0] < heights[1] < heights[2] and lines[0] <= lines[1] < lines[2] and lines[0] >= 2


@pytest.mark.parametrize("size", [(60, 60), (480, 640)])
def test_labels_at_one_place_do_not_cover_each_other(size):
    box = np.array([0.3, 0.4, 0.7, 0.6]) * [*size[::-1], *size[::-1]]
    both = draw_boxes(plain(*size), [box, box], [0, 2], [0.9, 0.8], NAMES, PALETTE)
    alone = [draw_boxes(plain(*size), [box], [label], [score], NAMES, PALETTE) for label, score in ((0, 0.9), (2, 0.8))]
    inks = ((255, 255, 255), (0, 0, 0))  # of a dark and of a bright colour
    for ink, picture in zip(inks, alone, strict=True):
        assert where(both, ink).shape[1] == where(picture, ink).shape[1] > 10


def test_the_higher_score_is_on_top():
    boxes = [[100, 100, 300, 300]] * 2
    for scores, top in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
        picture = draw_boxes(plain(400, 600), boxes, [0, 1], scores, NAMES, PALETTE)
        assert (picture[200, 100] == PALETTE[top]).all()


def test_no_boxes_show_the_image():
    image = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
    picture = draw_boxes(image, np.zeros((0, 4)), [], [], NAMES, PALETTE)
    np.testing.assert_array_equal(picture, image)
    assert not np.shares_memory(picture, image)


def test_degenerate_boxes_and_crowds_of_them_are_drawn():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(-50, 700, (300, 4)), [[5, 5, 5, 5], [900, 900, 990, 990]]])
    picture = draw_boxes(plain(480, 640), boxes, rng.integers(0, 3, 302), rng.random(302), NAMES, PALETTE)
    assert all(where(picture, color).size for color in PALETTE)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.5], "1 boxes, 2 labels and 1 scores"),
        ([0], [0.5, 0.4], "1 boxes, 1 labels and 2 scores"),
        ([3], [0.5], "label 3 is none of the 3 classes"),
        ([-1], [0.5], "label -1 is none of the 3 classes"),
    ],
)
def test_what_cannot_be_drawn_is_told(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(plain(100, 100), [[1, 2, 3, 4]], labels, scores, NAMES, PALETTE)


def sample(height, width, label=0, guess=1, score=0.8, caption="one.jpg"):
    box = np.array([[0.2, 0.3, 0.6, 0.9]]) * [width, height, width, height]
    return DetectionSample(plain(height, width), box, [label], box, [guess], [score], caption)


@pytest.mark.parametrize("size", [(320, 640), (160, 320), (1600, 3200)])
def test_sheet_shows_truth_beside_prediction_and_names_what_is_drawn(size):
    sheet = detection_sheet([sample(*size)], NAMES, PALETTE)
    top, left = where(sheet, (GREY,) * 3).min(axis=1)
    truth, guess = (sheet[top : top + 320, x : x + 640] for x in (left, left + 640 + left))
    np.testing.assert_allclose(extent(truth[110:], PALETTE[0]), (128, 0, 384, 288 - 110), atol=2)
    np.testing.assert_allclose(extent(guess[110:], PALETTE[1]), (128, 0, 384, 288 - 110), atol=2)
    assert not where(truth, PALETTE[1]).size and not where(guess, PALETTE[0]).size
    legend = sheet[top + 320 :]
    assert where(legend, PALETTE[0]).size and where(legend, PALETTE[1]).size and not where(legend, PALETTE[2]).size


def test_predictions_of_low_score_are_neither_drawn_nor_named():
    shown = detection_sheet([sample(320, 640, score=0.3)], NAMES, PALETTE)
    hidden = detection_sheet([sample(320, 640, score=0.29)], NAMES, PALETTE)
    assert where(shown, PALETTE[1]).size and not where(hidden, PALETTE[1]).size
    assert where(detection_sheet([sample(320, 640, score=0.2)], NAMES, PALETTE, min_score=0.1), PALETTE[1]).size


def test_images_of_all_sizes_share_columns_and_lose_nothing():
    sizes = {(32, 32): (640, 640), (1200, 2400): (320, 640), (600, 200): (640, 213), (640, 640): (640, 640)}
    nothing = (np.zeros((0, 4)), np.zeros(0, int))
    samples = [DetectionSample(plain(*size), *nothing, *nothing, np.zeros(0), f"{size}") for size in sizes]
    sheet = detection_sheet(samples, NAMES, PALETTE)
    rows, columns = where(sheet, (GREY,) * 3)
    counts = [2 * height * width for height, width in sizes.values()]
    assert len(rows) == pytest.approx(sum(counts), rel=1e-3)
    left = columns.min()
    assert columns.max() == 2 * (left + 640) - 1 < sheet.shape[1] - 1


def test_many_classes_get_only_the_legend_of_those_present():
    names, palette = [f"class {k}" for k in range(80)], distinct_colors(80)
    few = detection_sheet([sample(320, 640, label=70, guess=79)], names, palette)
    assert few.shape[0] < 450 and where(few, palette[79]).size


def test_a_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        detection_sheet([], NAMES, PALETTE)


def scores_of(classes: int, *, boxes: bool = True, curves: bool = True):
    """Each class has a box that is found and one that is not; the last class has no box."""
    places = [[0, 0, 50, 50], [100, 100, 50, 50]]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(classes + 1)],
        "annotations": [
            {"image_id": 1, "category_id": k, "bbox": box} for k in range(classes) for box in places if boxes
        ],
    }
    results = DetectionResults()
    results.add(1, [[0, 0, 50, 50]] * classes, np.linspace(0.5, 0.9, classes), np.arange(classes))
    return evaluate_boxes(truth, results, engine="fast", curves=curves)


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is drawn."""
    drawn = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", Kept)
    return drawn


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [0, 1, 3, 40])
def test_curves_are_drawn_with_their_scores(classes, figures, tmp_path):
    path = tmp_path / "new" / "precision_recall.png"
    precision_recall_picture(scores_of(classes), path)
    picture = read_image(path)
    assert min(picture.shape[:2]) > 500 and [file.name for file in path.parent.iterdir()] == ["precision_recall.png"]
    for axes, iou in zip(figures[0].axes, ("0.50", "0.75"), strict=True):
        assert axes.get_title("left") == f"Precision at IoU {iou}"
        lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
        expected = {0: [], 1: ["class 0: AP 0.505"], 40: ["mean: AP 0.505"]}.get(
            classes, ["mean: AP 0.505", *(f"class {k}: AP 0.505" for k in range(classes))]
        )
        assert list(lines) == expected
        assert len(axes.get_lines()) == {0: 0, 1: 1, 3: 4, 40: 41}[classes]  # unnamed beyond 20 classes
        assert ("each of 40 classes" in axes.get_title("right")) == (classes == 40)
        for line in axes.get_lines():
            np.testing.assert_allclose(line.get_ydata(), [1] * 51 + [0] * 50, atol=1e-12)
            np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 101))


def test_scores_without_curves_are_refused(tmp_path):
    with pytest.raises(ValueError, match="curves=True"):
        precision_recall_picture(scores_of(1, curves=False), tmp_path / "curves.png")
