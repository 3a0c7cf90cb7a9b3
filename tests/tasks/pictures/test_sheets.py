"""Pictures: which pixel gets which colour, and that nothing is cut off or silently wrong."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.files.images import read_mask
from tasks.files.writing import write_class_ids
from tasks.pictures.colors import colorize, distinct_colors
from tasks.pictures.sheets import overlay, with_legend
from tasks.segmentation.pictures import segmentation_sheet

PALETTE = np.array([[200, 30, 40], [20, 160, 60], [30, 60, 220]], dtype=np.uint8)
NAMES = ["road", "tree", "sky"]
RED, WHITE = (230, 25, 40), (255, 255, 255)


def holds(picture, color):
    return bool((picture == np.array(color, dtype=np.uint8)).all(axis=-1).any())


def is_grey(picture):
    return bool((picture.min(axis=-1) == picture.max(axis=-1)).all())


def test_colors_are_far_apart_and_not_grey():
    colors = distinct_colors(21)
    assert colors.shape == (21, 3) and colors.dtype == np.uint8
    lab = cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    between = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(21, 1)]
    assert between.min() > 25  # CIELAB; 2 is just noticeable
    lab = cv2.cvtColor(distinct_colors(150)[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 20  # chroma; a grey has 0


def test_a_class_keeps_its_color_when_classes_are_added():
    np.testing.assert_array_equal(distinct_colors(150)[:5], distinct_colors(5))
    assert len(np.unique(distinct_colors(150), axis=0)) == 150


@pytest.mark.parametrize("num_classes", [0, 5000])
def test_a_number_of_colors_that_cannot_be_given_raises(num_classes):
    with pytest.raises(ValueError, match=f"num_classes must be .* not {num_classes}"):
        distinct_colors(num_classes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_colorize_paints_classes_and_hatches_ignored_pixels(dtype):
    mask = np.full((20, 30), 255, dtype=dtype)
    mask[:, :10] = [[0] * 5 + [2] * 5]
    picture = colorize(mask, PALETTE)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, :5], np.broadcast_to(PALETTE[0], (20, 5, 3)))
    np.testing.assert_array_equal(picture[:, 5:10], np.broadcast_to(PALETTE[2], (20, 5, 3)))
    assert is_grey(picture[:, 10:]) and len(np.unique(picture[:, 10:])) == 2


def test_the_ignored_id_may_be_one_of_the_palette_or_negative():
    assert is_grey(colorize(np.full((4, 4), 1), PALETTE, ignore_index=1))
    assert is_grey(colorize(np.full((4, 4), -1), PALETTE, ignore_index=-1))


@pytest.mark.parametrize("wrong", [3, 255, -1])
def test_an_id_without_color_raises(wrong):
    mask = np.zeros((4, 4), dtype=int)
    mask[1, 2] = wrong
    with pytest.raises(ValueError, match=f"class id {wrong}, but the palette has 3 colours"):
        colorize(mask, PALETTE, ignore_index=100)


@pytest.fixture
def halves():
    """A grey image whose left half is road, whose right half is sky and whose lowest rows are ignored."""
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[:, 30:], mask[30:] = 2, 255
    return image, mask


def test_class_ids_are_written_in_their_colors_and_read_back_as_ids(tmp_path):
    ids = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
    write_class_ids(tmp_path / "deep" / "ids.png", ids, PALETTE)
    stored = Image.open(tmp_path / "deep" / "ids.png")
    assert stored.mode == "P" and np.array_equal(np.asarray(stored), ids)
    assert np.array_equal(read_mask(tmp_path / "deep" / "ids.png"), ids), "as training reads masks"
    shown = np.asarray(stored.convert("RGB"))
    assert np.array_equal(shown[ids < 3], PALETTE[ids[ids < 3]]) and shown[1, 1].tolist() == [255] * 3
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"ids.png"}


def test_overlay_blends_inside_darkens_borders_and_leaves_ignored_pixels(halves):
    image, mask = halves
    picture = overlay(image, mask, PALETTE, opacity=0.25)
    np.testing.assert_array_equal(picture[30:], image[30:])
    np.testing.assert_allclose(picture[10, 5], 0.75 * 100 + 0.25 * PALETTE[0], atol=1)
    np.testing.assert_allclose(picture[10, 50], 0.75 * 100 + 0.25 * PALETTE[2], atol=1)
    darker = picture.astype(int).sum(axis=-1) < np.where(mask == 0, picture[10, 5].sum(), picture[10, 50].sum()) - 5
    assert darker[5, 29] and darker[29, 5] and darker[29, 50]
    assert not darker[:28, :28].any() and not darker[:28, 32:].any()  # the borders are thin


def test_overlay_of_no_opacity_is_the_image_and_inputs_stay_as_they_were(halves):
    image, mask = halves
    np.testing.assert_array_equal(overlay(image, mask, PALETTE, opacity=0), image)
    overlay(image, mask, PALETTE)
    assert (image == 100).all() and set(np.unique(mask)) == {0, 2, 255}


def test_overlay_of_another_size_raises(halves):
    with pytest.raises(ValueError, match=r"mask is \(20, 60\), the image \(40, 60\)"):
        overlay(halves[0], halves[1][:20], PALETTE)


@pytest.mark.parametrize("size", [(128, 128), (1000, 100), (360, 480), (1024, 2048)])
def test_legend_stands_under_the_picture_and_is_not_cut(size):
    names = ["road", "a rather long class name of forty letters", "sky"]
    whole = with_legend(np.full((*size, 3), 7, dtype=np.uint8), names, PALETTE)
    rows = np.nonzero((whole == 7).all(axis=-1).any(axis=1))[0]
    factor = -(-256 // size[1])
    assert len(rows) == size[0] * factor and rows[0] == 0  # the picture is whole, on top
    legend = whole[rows[-1] + 1 :]
    assert all(holds(legend, color) for color in PALETTE)
    for edge in (legend[:2], legend[-2:], legend[:, :4], legend[:, -4:]):
        assert (edge == 255).all()  # a margin of paper on every side


def test_small_pictures_are_enlarged_pixel_by_pixel():
    picture = np.random.default_rng(0).integers(0, 255, (50, 128, 3), dtype=np.uint8)
    np.testing.assert_array_equal(with_legend(picture, NAMES, PALETTE)[:100:2, :256:2], picture)


def test_legend_lists_only_present_classes():
    picture = np.zeros((200, 300, 3), dtype=np.uint8)
    legend = with_legend(picture, NAMES, PALETTE, present=np.array([255, 2], dtype=np.uint8))[200:]
    assert holds(legend, PALETTE[2]) and not holds(legend, PALETTE[0]) and not holds(legend, PALETTE[1])
    np.testing.assert_array_equal(with_legend(picture, NAMES, PALETTE, present=[]), picture)


def test_letters_grow_with_the_picture():
    heights = [with_legend(np.zeros((100, width, 3), np.uint8), NAMES, PALETTE).shape[0] for width in (512, 1024, 2048)]
    assert heights[0] <= heights[1] < heights[2]


def test_many_classes_wrap_into_columns():
    picture = np.zeros((100, 900, 3), dtype=np.uint8)
    few, many = (with_legend(picture, ["name"] * count, distinct_colors(count)) for count in (1, 50))
    assert many.shape[1] == 900 and many.shape[0] - 100 < 10 * (few.shape[0] - 100)


def test_names_without_colors_raise():
    with pytest.raises(ValueError, match="2 class names, but 3 colours"):
        with_legend(np.zeros((9, 9, 3), np.uint8), NAMES[:2], PALETTE)


def sample(height, width, caption="one.png"):
    """A mid-grey image: the truth is road, the prediction wrongly tree on the right half; the top is ignored."""
    target, predicted = np.zeros((height, width), np.uint8), np.zeros((height, width), np.int64)
    target[: height // 4], predicted[:, width // 2 :] = 255, 1
    return np.full((height, width, 3), 128, np.uint8), target, predicted, caption


def cells(sheet, size, cell, top):
    """The four pictures of a row, (height, width) px each, in columns of `cell` px and the gap found on the sheet."""
    left = int(np.nonzero((sheet[top + 1] != 255).any(axis=-1))[0][0])
    return [sheet[top : top + size[0], x : x + size[1]] for x in (left + place * (cell + left) for place in range(4))]


def test_sheet_shows_image_truth_prediction_and_errors():
    sheet = segmentation_sheet([sample(300, 480)], NAMES, PALETTE)
    top = int(np.nonzero((sheet == 128).all(axis=-1).any(axis=1))[0][0])
    image, truth, guess, errors = cells(sheet, (300, 480), 480, top)
    assert (image == 128).all()
    assert is_grey(truth[:75]) and (truth[75:] == PALETTE[0]).all()
    assert (guess[:, :240] == PALETTE[0]).all() and (guess[:, 240:] == PALETTE[1]).all()
    assert (errors[75:, 240:] == RED).all() and is_grey(errors[75:, :240])
    np.testing.assert_array_equal(errors[:75], truth[:75])  # what the truth ignores is no error
    legend = sheet[top + 300 :]
    assert holds(legend, PALETTE[0]) and holds(legend, PALETTE[1]) and not holds(legend, PALETTE[2])


def test_rows_of_differing_sizes_share_columns():
    sizes = {(1024, 2048): (256, 512), (32, 32): (512, 512), (600, 200): (512, 171), (513, 513): (512, 512)}
    sheet = segmentation_sheet([sample(*size, f"{size}") for size in sizes], NAMES, PALETTE)
    top = 0
    for shown in sizes.values():
        top += int(np.nonzero((sheet[top:] == 128).all(axis=-1).any(axis=1))[0][0])
        image, truth, guess, errors = cells(sheet, shown, 512, top)
        assert (image == 128).all() and (truth[-3:] == PALETTE[0]).all()
        assert (guess[:, : shown[1] // 2 - 1] == PALETTE[0]).all() and (
            guess[:, shown[1] // 2 + 1 :] == PALETTE[1]
        ).all()
        assert (errors[-3:, shown[1] // 2 + 1 :] == RED).all()
        assert (sheet[top + shown[0], 40:] == 255).all()
        top += shown[0]


def test_scaling_down_makes_no_new_classes():
    target = np.zeros((64, 1000), np.uint8)
    target[:, 500:] = 2
    sheet = segmentation_sheet([(np.zeros((64, 1000, 3), np.uint8), target, target, "")], NAMES, PALETTE)
    assert not holds(sheet, PALETTE[1]) and not holds(sheet, RED)


def test_an_ignored_class_is_not_in_the_legend():
    image, target, predicted, caption = sample(100, 100)
    target[target == 255] = 2
    sheet = segmentation_sheet([(image, target, predicted, caption)], NAMES, PALETTE, ignore_index=2)
    assert not holds(sheet, PALETTE[2]) and holds(sheet, PALETTE[1])


def test_long_captions_widen_the_sheet_rather_than_be_cut():
    sheet = segmentation_sheet([sample(64, 64, "a very long caption " * 20)], NAMES, PALETTE)
    assert sheet.shape[1] > segmentation_sheet([sample(64, 64)], NAMES, PALETTE).shape[1]
    assert (sheet[:, -4:] == 255).all()


def test_sheets_of_nothing_or_of_differing_masks_raise():
    with pytest.raises(ValueError, match="at least one sample"):
        segmentation_sheet([], NAMES, PALETTE)
    image, target, predicted, caption = sample(64, 64)
    with pytest.raises(ValueError, match=r"predicted mask of 'one.png' is \(32, 64\)"):
        segmentation_sheet([(image, target, predicted[:32], caption)], NAMES, PALETTE)
