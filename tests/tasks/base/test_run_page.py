"""A page shows what its folder holds and nothing else: names stay text, and nothing is fetched."""

import base64
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.base.run_page import write_report

EVIL = '<script src="https://example.org/x.js"></script>\'"&amp;'
SECTIONS = ("Numbers", "Classes", "Curves", "Predictions", "Errors", "Configuration")


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.text, self.titles, self.tag = set(), [], "", [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.tag = tag
        self.addresses += [value for name, value in attrs if name in ("href", "src")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data) -> None:
        self.text += data
        self.titles += [data] if self.tag == "h2" and data.strip() else []
        self.tag = ""


def shown(folder) -> Page:
    write_report(folder)
    assert not list(folder.glob(".*")), "an unfinished file stays"
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    """A run with its evaluation, whose names are markup."""
    folder = tmp_path / "<img src=x onerror=y>"
    folder.mkdir()
    for name, content in {
        "metrics.json": {"val/mAP": 0.25, f"val/AP/{EVIL}": 0.5, "best/mAP": 0.3125, "best/epoch": 2, "epochs": 3},
        "evaluation.json": {"val/mAP": 0.375, f"val/AP/{EVIL}": 0.625, "val/dAP/Cls": 0.03125, "notes": [EVIL],
                            "checkpoint": f"{EVIL}/best.ckpt", "data": {"root": EVIL}, "images": 1234},
        "errors.json": {"dAP": {"Cls": 0.03125}, "errors": {"Cls": 17}, "classes": {EVIL: {"threshold": 0.4375}}},
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps(content))
    text = json.dumps({"choices": {"task": "detection", "data": EVIL}, "note": "</pre></details>" + EVIL})
    (folder / "config.yaml").write_text(text)
    for name in ("curves", "predictions", "evaluation", "confusion"):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((4, 6, 3), 200, np.uint8))
    (folder / "per_class.csv").write_text(f'class,images\n"{EVIL.replace(chr(34), chr(34) * 2)}",77\n')
    return folder


def test_names_stay_text_and_nothing_is_fetched(folder):
    page = shown(folder)
    assert page.titles == [*SECTIONS]
    assert page.text.count(EVIL) == 6 and folder.name in page.text
    assert page.tags == {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "nav", "a", "div", "b",
                         "section", "table", "caption", "tr", "th", "td", "figure", "figcaption", "img", "details",
                         "summary", "pre"}  # fmt: skip
    assert all(address.startswith(("#s", "data:image/png;base64,")) or (folder / address).is_file()
               for address in page.addresses)  # fmt: skip
    assert "url(" not in page.text and "@import" not in page.text
    for value in ("0.2500", "0.5000", "0.3125", "0.3750", "0.6250", "0.0312", "17", "0.4375", "1,234", "77"):
        assert value in page.text


@pytest.mark.parametrize(
    "source", [{"checkpoint": "other/best.ckpt"}, {"artifact": "other"}, {"weights": "torchvision"}]
)
def test_an_evaluation_of_something_else_has_no_part_in_the_page_of_a_training(folder, monkeypatch, source):
    monkeypatch.chdir(folder.parent)
    for name in ("other/best.ckpt", f"{folder.name}/best.ckpt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    record = json.loads((folder / "evaluation.json").read_text())
    own = dict(record, checkpoint=f"{folder.name}/best.ckpt")
    del record["checkpoint"]
    for content, there in ((own, True), (record | source, False)):
        (folder / "evaluation.json").write_text(json.dumps(content))
        page = shown(folder)
        assert ("Errors" in page.titles) == there and ("1,234" in page.text) == there and "0.3125" in page.text
        assert ("77" in page.text) == there and ("evaluation.png" in page.text) == there
    assert f"is of {next(iter(source.values()))}, not of this training" in page.text
    (folder / "metrics.json").unlink()
    assert "1,234" in shown(folder).text, "an evaluation alone is shown, whatever it is of"


def test_a_name_that_utf_8_does_not_know_is_shown(folder):
    (folder / "metrics.json").write_text('{"val/AP/a\\ud800b": 0.5}')
    assert "a?b" in shown(folder).text


@pytest.mark.parametrize(
    "broken", [None, b"", b"{", b"[1, 2]", b'{"classes": 3, "choices": 3, "val/x": {}, "notes": 4}', b"\xff\x00"]
)
def test_what_is_missing_or_broken_is_left_out(folder, broken):
    """File by file, until none is left."""
    gone = {"curves.png": "Curves", "predictions.png": None, "evaluation.png": "Predictions", "confusion.png": None,
            "per_class.csv": None, "errors.json": "Errors", "evaluation.json": None, "metrics.json": "Numbers",
            "config.yaml": None}  # fmt: skip
    left = {*SECTIONS} - {"Classes"}  # which several files fill
    for name, section in gone.items():
        (folder / name).unlink() if broken is None else (folder / name).write_bytes(broken)
        titles = {*shown(folder).titles}
        left -= {section, "Configuration" if name == "config.yaml" else section}
        assert left <= titles, f"{name} took others along"
        assert section not in titles or (section == "Numbers" and b"val/x" in broken), name
    assert broken is not None or not titles


def test_a_page_that_cannot_be_written_is_a_warning_and_the_earlier_one_stays(folder, caplog, monkeypatch):
    shown(folder)
    earlier = (folder / "report.html").read_bytes()

    def full(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    (folder / "curves.png").unlink()
    write_report(folder)
    assert "report.html cannot be written: No space left" in caplog.text and not list(folder.glob(".*"))
    assert (folder / "report.html").read_bytes() == earlier


def test_charts_are_embedded_as_they_are_and_large_sheets_smaller(folder):
    noise = np.random.default_rng(0).integers(0, 256, (400, 2000, 3), np.uint8)
    cv2.imwrite(str(folder / "predictions.png"), noise)
    found = [address.split(";base64,") for address in shown(folder).addresses if address.startswith("data:")]
    pictures = {kind: base64.b64decode(text) for kind, text in found}
    assert (folder / "curves.png").read_bytes() == pictures["data:image/png"]
    sheet = cv2.imdecode(np.frombuffer(pictures["data:image/jpeg"], np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (320, 1600, 3)


def test_an_evaluation_elsewhere_has_the_configuration_and_names_the_training(folder):
    shown(folder)
    other = folder / "evaluation-2"
    other.mkdir()
    content = {"test/mAP": 0.125, "checkpoint": str(folder / "best.ckpt")}
    (other / "evaluation.json").write_text(json.dumps(content))
    page = shown(other)
    assert page.titles == ["Numbers", "Configuration"] and "../report.html" in page.addresses
    assert "evaluation (test)" in page.text and "task detection" in page.text and "0.1250" in page.text


def test_an_evaluation_from_before_the_training_went_on_is_told(folder):
    told = "older than the end of the training"
    os.utime(folder / "metrics.json", (1, 1))
    assert told not in shown(folder).text
    os.utime(folder / "evaluation.json", (0, 0))
    assert told in shown(folder).text


def test_an_artifact_shows_its_certificate(folder):
    artifact = folder / "onnx"
    artifact.mkdir()
    manifest = {"backend": "onnx", "precision": "int8", "certified": ["outputs", "val/mAP"], "hashes": {EVIL: "5eed"},
                "metric": {"name": "val/mAP", "drop": 0.0009765625}, "config": {"choices": {"task": "detection"}},
                "parity": {"outputs": {"boxes": {"absolute": 0.000244140625}}}, "anchors": {"boxes": [[7654321]]},
                "notes": [EVIL], "delegated": None}  # fmt: skip
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    assert "Certificate" not in shown(folder).titles, "it is another folder's"
    page = shown(artifact)
    assert page.titles == ["Certificate", "Configuration"]
    for text in ("outputs; val/mAP", "5eed", "0.000976562", "0.000244141", "task detection"):
        assert text in page.text
    assert "7654321" not in page.text and page.text.count(EVIL) == 2 and "script" not in page.tags
