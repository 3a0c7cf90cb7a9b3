"""Whatever stands in a file, reading it ends in data or in an error that a user can act on.

By default a few seconds, the same examples each time. For as long as you like, other ones each time:

    MOBILE_DENSE_FUZZ=20000 python -m pytest tests/tasks/files/test_fuzz.py -q

where the number is that of the examples a test tries. What is found is printed as a call that repeats it.
"""

import copy
import hashlib
import json
import os
import re
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from backbones.weights.sources import read_source
from tasks.base.checkpoint import read_checkpoint
from tasks.data.coco import CocoData
from tasks.data.imagenet import read_labels
from tasks.data.shard_data import ShardData
from tasks.data.voc import VocData
from tasks.deploy.formats.program import exported_program
from tasks.deploy.formats.pt2 import Pt2Runtime
from tasks.deploy.manifest import FILE, read_manifest
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.files.images import decode_image, decode_pil, jpeg_size, read_mask
from tasks.files.videos import frames
from tests.tasks.data.test_coco import CONTENT, OPTIONS
from tests.test_security import Tiny, manifest, tampered

LONG = os.environ.get("MOBILE_DENSE_FUZZ")
MEMORY = 2 * 2**30  # bytes that reading a file may take
FUZZ = settings(
    max_examples=int(LONG or 25), derandomize=not LONG, database=None, deadline=None, print_blob=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
ALLOWED = (ValueError, FileNotFoundError)  # a DataError is a ValueError

KEYS = ("id", "file_name", "bbox", "image_id", "category_id", "area", "iscrowd", "height", "width", "name", "format")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.sampled_from([2**31, 2**63, -(2**63), 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=8),
    st.sampled_from(["../a.png", "/etc/passwd", "", ".", "a\0b", "\ud800", "sub/a.png", "9", "os.system"]),
)  # fmt: skip
ODD = st.sampled_from(
    [2**31, 2**63, -(2**63) - 1, 10**30, 10**400, float("nan"), float("inf"), -1, 0, 0.5, True, "9", None]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw, content):
    """A JSON value with one to three of its parts replaced, left out, or there twice."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        holder, place = None, content
        while isinstance(place, dict | list) and place and (holder is None or draw(st.integers(0, 7))):
            holder, key = place, draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            place = holder[key]
        if holder is None:
            return draw(VALUES)
        what = draw(st.sampled_from(["replace", "replace", "leave out", "twice"]))
        if what == "replace":
            odd = isinstance(place, int | float) and draw(st.booleans())  # numbers are what most depends on
            holder[key] = draw(ODD if odd else VALUES)
        elif what == "leave out":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(place))
    return content


@st.composite
def damaged(draw, data: bytes):
    """Bytes of which some are others, are missing, or come twice."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        # Most of what decides anything stands at the beginning.
        last = len(data) if draw(st.booleans()) else min(len(data), 200)
        start = draw(st.integers(0, max(0, last - 1)))
        stop = min(len(data), start + draw(st.integers(1, 40)))
        what = draw(st.sampled_from(["other", "other", "bit", "missing", "twice", "end"]))
        if what == "other":
            data[start : start + 4] = draw(st.binary(min_size=1, max_size=4))
        elif what == "bit" and data:
            data[min(start, len(data) - 1)] ^= 1 << draw(st.integers(0, 7))
        elif what == "missing":
            del data[start:stop]
        elif what == "twice":
            data[stop:stop] = data[start:stop]
        elif what == "end":
            del data[start:]
    return bytes(data)


def text(content) -> bytes:
    return json.dumps(content).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True)
def bounded_memory():
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the height begins anew; other tests share the process
    before = _height()
    yield
    assert _height() - before < MEMORY


def _height() -> int:
    """Most bytes of memory that the process has had at a time."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


def read_coco(folder, data: bytes) -> None:
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations/instances_val2017.json").write_bytes(data)
    with suppress(*ALLOWED):
        truth = CocoData(str(folder), **OPTIONS).ground_truth("val")
        json.dumps(truth)
        assert len(GroundTruth.from_coco(truth).images) == len(truth["images"])


@FUZZ
@given(content=changed(CONTENT))
def test_coco_content(folder, content):
    read_coco(folder, text(content))
    with suppress(*ALLOWED):
        GroundTruth.from_coco(content)


@FUZZ
@given(data=damaged(text(CONTENT)))
def test_coco_bytes(folder, data):
    read_coco(folder, data)


RESULTS = [{"image_id": k, "category_id": 3, "bbox": [1.5, 2, 3, 4], "score": 0.5} for k in (4, 9)]


@FUZZ
@given(data=changed(RESULTS).map(text) | damaged(text(RESULTS)))
def test_results(folder, data):
    (folder / "results.json").write_bytes(data)
    with suppress(*ALLOWED):
        json.dumps(DetectionResults.from_json(folder / "results.json").to_json(), allow_nan=False)


VOC = b"""<?xml version="1.0" encoding="utf-8"?>
<annotation><filename>a.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object></annotation>"""
NUMBERS = st.sampled_from([b"1e400", b"nan", b"-5", b"9" * 400, b"x", b"", b"&a;", b"1e9"])


@FUZZ
@given(data=damaged(VOC) | st.builds(VOC.replace, st.sampled_from([b"60", b"40", b"30", b"cat", b"utf-8"]), NUMBERS),
       names=st.sampled_from([b"a\n", b"../a\n", b"\xff", b"a 1\n\n"]))  # fmt: skip
def test_voc(folder, data, names):
    for name, content in (("ImageSets/Main/val.txt", names), ("Annotations/a.xml", data)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with suppress(*ALLOWED):
        json.dumps(VocData(str(folder), **OPTIONS).ground_truth("val"))


def pictures() -> dict[str, bytes]:
    noise = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8), (24, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "jpeg": ("JPEG", "RGB", {"exif": exif}), "progressive": ("JPEG", "RGB", {"progressive": True}),
        "cmyk": ("JPEG", "CMYK", {}), "png": ("PNG", "RGB", {}), "palette": ("PNG", "P", {"transparency": 0}),
        "alpha": ("PNG", "LA", {}), "bits": ("PNG", "1", {}), "gif": ("GIF", "P", {}), "bmp": ("BMP", "RGB", {}),
        "tiff": ("TIFF", "RGB", {"compression": "tiff_lzw"}), "webp": ("WEBP", "RGB", {}), "ppm": ("PPM", "RGB", {}),
    }  # fmt: skip
    found = {"deep": cv2.imencode(".png", noise.astype(np.uint16) * 257)[1].tobytes()}
    for name, (kind, mode, options) in kinds.items():
        buffer = BytesIO()
        Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    return found


PICTURES = pictures()


@pytest.mark.parametrize("kind", PICTURES)
@settings(FUZZ, max_examples=FUZZ.max_examples if LONG else 12)
@given(choose=st.data())
def test_pictures(folder, kind, choose):
    data = choose.draw(damaged(PICTURES[kind]))
    (folder / "a.png").write_bytes(data)
    jpeg_size(data)
    for read in (lambda: decode_image(data, "a"), lambda: decode_image(data, "a", reduction=4),
                 lambda: decode_pil(data, "a"), lambda: read_mask(folder / "a.png")):  # fmt: skip
        with suppress(*ALLOWED):
            image = np.asarray(read())
            assert image.dtype == np.uint8 and image.ndim in (2, 3)


@pytest.fixture(scope="module")
def video(folder):
    writer = cv2.VideoWriter(str(folder / "whole.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 32))
    for shade in range(6):
        writer.write(np.full((32, 32, 3), 40 * shade, np.uint8))
    writer.release()
    return (folder / "whole.avi").read_bytes()


@settings(FUZZ, max_examples=FUZZ.max_examples if LONG else 8)
@given(choose=st.data())
def test_videos(folder, video, choose):
    (folder / "a.avi").write_bytes(choose.draw(damaged(video)))
    with suppress(*ALLOWED):
        for count, _ in enumerate(frames(folder / "a.avi")):
            assert count < 1000


def artifact(folder, data: bytes, text_of_manifest: bytes | None = None) -> None:
    (folder / "model.pt2").write_bytes(data)
    if text_of_manifest is None:
        text_of_manifest = text(manifest(hashes={"model.pt2": hashlib.sha256(data).hexdigest()}))
    (folder / FILE).write_bytes(text_of_manifest)


@FUZZ
@given(choose=st.data())
def test_manifests(folder, choose):
    content = manifest(hashes={"model.pt2": hashlib.sha256(b"x").hexdigest()})
    data = choose.draw(changed(content).map(text) | damaged(text(content)))
    artifact(folder, b"x", data)
    with suppress(*ALLOWED):
        read = read_manifest(folder)[1]
        assert len(read.class_table()) and read.image_size and read.batch


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(exported_program(Tiny().eval(), torch.zeros(2, 3, 8, 8), dynamic_batch=True), path)
    return path


@settings(FUZZ, max_examples=FUZZ.max_examples if LONG else 10)
@given(choose=st.data())
def test_programs(folder, program, choose):
    name = "models/model.json"
    with zipfile.ZipFile(program) as archive:
        root = archive.namelist()[0].split("/")[0]
        content = json.loads(archive.read(f"{root}/{name}"))
    if choose.draw(st.booleans()):
        data = choose.draw(damaged(program.read_bytes()))
    else:
        model = choose.draw(changed(content).map(text))
        data = tampered(program, lambda records: records.update({name: model}))
    artifact(folder, data)
    with suppress(*ALLOWED):
        Pt2Runtime(folder, read_manifest(folder)[1])


def saved(value, **options) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


CHECKPOINT = {
    "state_dict": nn.Conv2d(3, 2, 1).state_dict() | {"network.mean": torch.zeros(3)}, "config": {"data": {"root": "x"}},
    "classes": {"names": ["a"], "palette": [[0, 0, 0]]}, "fused": False, "mean": [0.5, 0.5, 0.5],
}  # fmt: skip
CHECKPOINTS = [saved(CHECKPOINT), saved(CHECKPOINT, _use_new_zipfile_serialization=False)]


@FUZZ
@given(data=st.sampled_from(CHECKPOINTS).flatmap(damaged), content=changed(
    {"state_dict": {"a": 1}, "config": {"data": {"root": "x"}}, "classes": {}, "fused": False, "mean": [1, 2, 3],
     "preprocessing": {"crop_ratio": 0.8}}))  # fmt: skip
def test_checkpoints(folder, data, content):
    for written in (data, saved(content)):
        (folder / "a.pth").write_bytes(written)
        with suppress(*ALLOWED):
            read_checkpoint(folder / "a.pth")
        with suppress(*ALLOWED):
            read_source(str(folder / "a.pth"), {})


SAFETENSORS = (len(b := b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}')).to_bytes(8, "little") + b + bytes(8)


@FUZZ
@given(
    data=damaged(SAFETENSORS), config=changed({"pretrained_cfg": {"mean": [1, 2, 3], "std": [1], "input_size": [3]}})
)
def test_safetensors(folder, data, config):
    for written, beside in ((data, b"{}"), (SAFETENSORS, text(config))):
        (folder / "a.safetensors").write_bytes(written)
        (folder / "config.json").write_bytes(beside)
        with suppress(*ALLOWED):
            read_source(str(folder / "a.safetensors"), {})


def shard_files() -> dict[str, bytes]:
    picture, buffer = PICTURES["png"], BytesIO()
    columns = {
        "labels": np.zeros(1, np.int32), "name_ends": np.array([5]), "shards": np.zeros(1, np.int32),
        "offsets": np.zeros(1, np.int64), "sizes": np.array([len(picture)]), "checksums": np.zeros(1, np.uint32),
    }  # fmt: skip
    np.savez(buffer, names=np.frombuffer(b"a.png", np.uint8), **columns)
    return {"train.npz": buffer.getvalue(), "train-00000.tar": picture}


SHARDS = shard_files()


def entry(name: str, data: bytes) -> dict:
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@FUZZ
@given(choose=st.data())
def test_shards(folder, choose):
    files = dict(SHARDS)
    name = choose.draw(st.sampled_from(["index", *files]))
    if name != "index":
        files[name] = choose.draw(damaged(files[name]))
    part = {"samples": 1, "index": entry("train.npz", files["train.npz"]),
            "shards": [entry("train-00000.tar", files["train-00000.tar"])]}  # fmt: skip
    index = {"classes": {"names": ["a"], "palette": [[0, 0, 0]], "ids": None}, "splits": {"train": part}}
    files["index.json"] = text(choose.draw(changed(index)) if name == "index" else index)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    with suppress(*ALLOWED):
        dataset = ShardData(str(folder), num_workers=0).samples("train")
        assert len(dataset) < 10_000
        dataset.encoded(0)


LABELS = (
    b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n", b"a.png 3\nb 7\n",
    b"n01440764\nn01443537\n",
)  # fmt: skip


@FUZZ
@given(data=st.sampled_from(LABELS).flatmap(damaged), suffix=st.sampled_from([".csv", ".txt"]))
def test_label_lists(folder, data, suffix):
    (folder / f"labels{suffix}").write_bytes(data)
    with suppress(*ALLOWED):
        read_labels(folder / f"labels{suffix}")
