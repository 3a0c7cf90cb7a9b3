"""ImageNet's classes and every form in which its validation labels come."""

import numpy as np
import pytest
from scipy.io import savemat
from timm.data import ImageNetInfo

from tasks.data.imagenet import DEVKIT, ImageNetData, readable_names, synsets
from tasks.values.errors import DataError
from tests.tasks.data.test_folders import OPTIONS, put

A, B, C = "n01440764", "n02123045", "n15075141"  # labels 0, 281, 999
TRUTH = [281, 999, 0]  # of the official images 1, 2, 3


def opened(root, **options) -> ImageNetData:
    return ImageNetData(str(root), **OPTIONS | options)


def labels(data, split: str = "val") -> list[int]:
    return data.dataset(split).samples.labels.tolist()


@pytest.fixture
def official(tmp_path):
    put(tmp_path, *(f"val/ILSVRC2012_val_0000000{k}.JPEG" for k in (1, 2, 3)))
    return tmp_path


def write_devkit(folder) -> None:
    """The devkit's own order of the classes, here backwards, and two synsets above the leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [(1000 - label, wnid) for label, wnid in enumerate(synsets())] + [
        (1001, "n00001740"),
        (1002, "n00001930"),
    ]
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    table = np.array([(number, wnid, int(number > 1000)) for number, wnid in entries], kind)
    savemat(folder / "meta.mat", {"synsets": table.reshape(-1, 1)})
    (folder / DEVKIT).write_text("".join(f"{1000 - label}\n" for label in TRUTH))


def test_classes_are_timms_in_order():
    info = ImageNetInfo()
    assert list(synsets()) == info.label_names()
    names = readable_names()
    assert len(set(names)) == 1000 and names[281] == "tabby"
    for label in (0, 281, 500, 999):  # both libraries name the same thing
        assert names[label].lower().split()[0] in info.index_to_description(label).lower()


def test_names_that_are_alike_get_their_ids():
    names = [f"thing {k}" for k in range(1000)]
    names[134] = names[517] = "crane"
    assert readable_names(names)[134] == f"crane ({synsets()[134]})" and readable_names(names)[0] == "thing 0"


def test_class_folders_keep_their_labels_however_few_they_are(tmp_path):
    put(tmp_path, f"train/{B}/a.JPEG", f"train/{C}/b.JPEG", f"val/{C}/c.JPEG")
    data = opened(tmp_path)
    assert labels(data) == [999] and labels(data, "train") == [281, 999]
    text = data.findings()[0].text
    assert text.startswith("train: 998 of 1000 classes have no image") and "data=folders" in text
    assert data.num_classes == 1000
    (tmp_path / "val" / "tabby").mkdir()
    with pytest.raises(DataError, match=r"val/tabby is no class of ImageNet; expected WordNet ids .*data=folders"):
        labels(opened(tmp_path))


FORMS = {
    "val.txt": "".join(f"ILSVRC2012_val_0000000{k}.JPEG {label}\n" for k, label in enumerate(TRUTH, 1)),
    "mine.txt": "".join(f"ILSVRC2012_val_0000000{k}.JPEG {synsets()[label]}\n" for k, label in enumerate(TRUTH, 1)),
    "imagenet_2012_validation_synset_labels.txt": "".join(f"{synsets()[label]}\n" for label in TRUTH),
    "LOC_val_solution.csv": "ImageId,PredictionString\n" + "".join(
        f"ILSVRC2012_val_0000000{k},{synsets()[TRUTH[k - 1]]} 85 1 499 272 {synsets()[TRUTH[k - 1]]} 1 1 9 9\n"
        for k in (3, 1, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_ground_truth_gives_the_same_labels(official, form):
    (official / form).write_text(FORMS[form])
    assert labels(opened(official, val_labels=form if form == "mine.txt" else None)) == TRUTH
    assert labels(opened(official, val_labels=str(official / form))) == TRUTH
    (official / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    assert labels(opened(official, val_labels=form)) == [TRUTH[0], TRUTH[2]], "a part keeps its labels"


@pytest.mark.parametrize("folder", ["", "ILSVRC2012_devkit_t12/data"])
def test_the_devkits_own_numbers_are_translated(official, folder):
    write_devkit(official / folder)
    assert labels(opened(official)) == TRUTH


def test_the_devkit_needs_its_table(official):
    write_devkit(official)
    (official / DEVKIT).write_text("1\n1001\n3\n")
    with pytest.raises(DataError, match=r"1001 is no id of the devkit, 1 to 1000"):
        labels(opened(official))
    (official / "meta.mat").unlink()
    with pytest.raises(DataError, match=r"no file .*meta\.mat; the devkit's ground truth counts"):
        labels(opened(official))


@pytest.mark.parametrize(("text", "message"), [
    (None, r"there is no .*val\.txt or .*data\.val_labels"),
    ("ILSVRC2012_val_00000001.JPEG 5\n", r"val\.txt has no label for .*val_00000002\.JPEG"),
    ("a.JPEG 1000\n", r"val\.txt: '1000' is no class of ImageNet"),
    ("n01440764\nn99999999\n", r"val\.txt: 'n99999999' is no class"),
    (f"{A}\n{A}\n", r"has no label for .*00000003"),
    ("one two three\n", r"val\.txt: 'three' is no class"),
    ("one\none two\n", r"val\.txt: expected one WordNet id a line"),
    ("", r"val\.txt: expected one WordNet id a line"),
])  # fmt: skip
def test_what_is_amiss_in_ground_truth_is_named(official, text, message):
    if text is not None:
        (official / "val.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        labels(opened(official))


def test_lines_go_by_order_where_names_tell_no_number(tmp_path):
    put(tmp_path, "val/b.png", "val/a.png")
    (tmp_path / "val.txt").write_text(f"{B}\n{C}\n")
    data = opened(tmp_path)
    assert [data.dataset("val").samples.name(k) for k in (0, 1)] == ["a.png", "b.png"] and labels(data) == [281, 999]
    (tmp_path / "val.txt").write_text(f"{B}\n{C}\n{A}\n")
    with pytest.raises(DataError, match=r"has 3 lines for 2 images"):
        labels(opened(tmp_path))
