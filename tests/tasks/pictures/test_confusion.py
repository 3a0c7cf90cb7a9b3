"""Confusion matrices: the classes that are shown, pictures of any size."""

import cv2
import numpy as np
import pytest

from tasks.pictures.confusion import confused_classes, confusion_picture


def test_the_classes_that_are_taken_for_each_other_are_found_and_stand_together():
    matrix = np.diag(np.full(100, 50))
    matrix[7, 93], matrix[93, 7], matrix[40, 12], matrix[3, 4] = 9, 8, 12, 2
    chosen = confused_classes(matrix, 5)
    assert chosen[:2] == [7, 93] and sorted(chosen[2:4]) == [12, 40] and len(chosen) == 5
    assert confused_classes(matrix[:4, :4], 5) == [0, 1, 2, 3]
    assert len(set(confused_classes(np.diag(np.full(100, 50)), 30))) == 30


@pytest.mark.parametrize("classes", [2, 4, 60])
def test_a_confusion_matrix_of_any_size_becomes_a_picture(classes):
    matrix = np.diag(np.full(classes, 5))
    matrix[0, 1] = 3
    names = [f"class {at}" for at in range(classes)]
    png = confusion_picture(matrix, names, title="9 images")
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) > 300 and picture.std() > 10
