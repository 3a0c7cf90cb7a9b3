"""Shards against the files that they were made of, against webdataset's own reader, and damaged in every part."""

import json
import os
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import webdataset
from torch import distributed, multiprocessing

from tasks.data import shard_data
from tasks.data.folders import FolderData
from tasks.data.shard_data import ShardData
from tasks.data.shard_writer import write_shards
from tasks.values.errors import DataError

OPTIONS = {"image_size": 16, "batch_size": 4, "val_batch_size": 3, "num_workers": 0, "seed": 5, "color": 0.4}
TRAIN, VAL = 41, 7


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Class folders with the kinds of names that occur."""
    root, random = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for index in range(count):
            name = ("cat", "a dog", "grüße")[index % 3]
            suffix = ("jpg", "JPEG", "png", "v2.jpg")[index % 4]
            file = root / split / name / f"{index:03}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            shape = (int(random.integers(20, 40)), int(random.integers(20, 40)), 3)
            data = cv2.imencode("." + suffix.split(".")[-1], random.integers(0, 256, shape, np.uint8))[1]
            file.write_bytes(data.tobytes())
    return root


@pytest.fixture(scope="module")
def shards(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("shards") / "set"
    write_shards(FolderData(str(folders), **OPTIONS), root, shard_size=0.01)
    return root


@pytest.fixture
def copied(shards, tmp_path):
    """Shards to damage."""
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def opened(root, split: str = "train", **options):
    return ShardData(str(root), **(OPTIONS | options)).dataset(split).samples


def test_shards_hold_the_files_bytes_labels_names_and_order(folders, shards):
    files, data = FolderData(str(folders), **OPTIONS), ShardData(str(shards), **OPTIONS)
    assert data.classes == files.classes
    for split, count in (("train", TRAIN), ("val", VAL)):
        ours, theirs = data.samples(split), files.samples(split)
        assert len(ours) == len(theirs) == count
        assert len(ours.files) > 2, "the test needs several shards"
        for index in range(count):
            assert ours.name(index) == theirs.name(index)
            assert ours.label(index) == theirs.label(index)
            assert ours.encoded(index) == (folders / split / ours.name(index)).read_bytes()


def test_webdataset_reads_the_same_samples(folders, shards):
    samples = opened(shards)
    urls = [str(shards / file["file"]) for file in samples.files]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sum(sample["__url__"] == url for sample in found) for url in urls] == [f["samples"] for f in samples.files]
    by_key = {int(sample["__key__"]): sample for sample in found}
    assert sorted(by_key) == list(range(TRAIN))
    for index, sample in by_key.items():
        image = sample["png" if samples.name(index).endswith("png") else "jpg"]
        assert image == samples.encoded(index)
        assert int(sample["cls"]) == samples.label(index)
        about = json.loads(sample["json"])
        assert about["name"] == samples.name(index) and about["class"] == Path(samples.name(index)).parent.name
    keys = [int(sample["__key__"]) for sample in found]
    assert keys != sorted(keys), "training samples are mixed over the shards, else a shard would hold one class"
    first = {int(s["cls"]) for s in found if s["__url__"] == urls[0]}
    assert len(first) > 1


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"repeats": 3}], ids=str)
def test_batches_are_those_of_files(folders, shards, options):
    sides = [cls(str(root), **(OPTIONS | options)) for cls, root in ((FolderData, folders), (ShardData, shards))]
    for side in sides:
        side.setup("fit")
    for loaders in ([s.train_dataloader() for s in sides], [s.val_dataloader() for s in sides]):
        for epoch in (0, 3):
            for loader in loaders:
                loader.sampler.set_epoch(epoch)
            for files, ours in zip(*loaders, strict=True):
                assert files["names"] == ours["names"]
                assert torch.equal(files["labels"], ours["labels"])
                assert torch.equal(files["images"], ours["images"])


def rank_orders(data: ShardData, ranks: int, epoch: int, *, shuffle: bool) -> list[list[tuple]]:
    orders = []
    for rank in range(ranks):
        sampler = data.make_sampler(TRAIN if shuffle else VAL, shuffle=shuffle)
        sampler.rank, sampler.ranks = rank, ranks
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler)
    return orders


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("order", ["samples", "shards"])
def test_ranks_see_each_sample_once(shards, ranks, order):
    data = ShardData(str(shards), order=order, window=2, **OPTIONS)
    for epoch in range(3):
        orders = rank_orders(data, ranks, epoch, shuffle=True)
        indices = [key[1] for keys in orders for key in keys]
        assert len(set(indices)) == len(indices) == TRAIN - TRAIN % ranks
        assert {len(keys) for keys in orders} == {TRAIN // ranks}
        assert {key[0] for keys in orders for key in keys} == {epoch}
        evaluated = [key[1] for keys in rank_orders(data, ranks, epoch, shuffle=False) for key in keys]
        assert sorted(evaluated) == list(range(VAL))


def test_order_of_shards_visits_a_few_at_a_time(shards):
    data = ShardData(str(shards), order="shards", window=2, **OPTIONS)
    samples = data.dataset("train").samples
    sizes = [file["samples"] for file in samples.files]
    assert len(sizes) >= 6
    seen, first_turns = set(), set()
    for epoch in range(20):
        (keys,) = rank_orders(data, 1, epoch, shuffle=True)
        visited = samples.shards[[index for _, index in keys]].tolist()
        turns = list(dict.fromkeys(visited))
        seen.add(tuple(index for _, index in keys))
        first_turns.add(turns[0])
        assert rank_orders(data, 1, epoch, shuffle=True) == [keys], "the order follows from seed and epoch"
        start, windows = 0, []
        while start < TRAIN:  # every window ends with the last sample of its two shards
            pair = set(turns[len(windows) * 2 : len(windows) * 2 + 2])
            stop = start + sum(sizes[shard] for shard in pair)
            assert Counter(visited[start:stop]) == {shard: sizes[shard] for shard in pair}
            windows.append(visited[start:stop])
            start = stop
        first = rank_orders(data, 2, epoch, shuffle=True)
        shards_of = [set(samples.shards[[key[1] for key in order]].tolist()) for order in first]
        assert len(shards_of[0] & shards_of[1]) <= 1, "ranks share a shard only where their stretches meet"
    assert len(seen) == 20 and len(first_turns) > 4, "shards and samples come in another order each epoch"
    assert any(window != sorted(window, key=window.index) for window in windows), "the shards of a window are mixed"
    (keys,) = rank_orders(data, 1, 0, shuffle=False)
    assert [index for _, index in keys] == list(range(VAL))


def test_copies_of_a_sample_stay_together_in_the_order_of_shards(shards):
    data = ShardData(str(shards), order="shards", repeats=3, **OPTIONS)
    orders = rank_orders(data, 2, 1, shuffle=True)
    keys = [key for order in orders for key in order]
    assert len(set(keys)) == len(keys) == 40
    assert sorted(Counter(index for _, index, _ in keys).values()) == [1] + [3] * 13
    assert {copy for _, _, copy in keys} == {0, 1, 2}
    for order in orders:
        indices = [index for _, index, _ in order]
        assert len(list(groupby(indices))) == len(set(indices))


def _read_rank(rank: int, ranks: int, meeting: str, root: str, out: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    data = ShardData(root, order="shards", window=2, **(OPTIONS | {"num_workers": 2, "batch_size": 2}))
    data.setup("fit")
    names = {"train": [], "val": []}
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        for batch in loader:
            names[split] += batch["names"]
    Path(out, f"{rank}.json").write_text(json.dumps(names))
    distributed.destroy_process_group()


def test_two_processes_with_two_workers_each_read_each_sample_once(shards, tmp_path):
    multiprocessing.start_processes(
        _read_rank, (2, str(tmp_path / "meeting"), str(shards), str(tmp_path)), nprocs=2, start_method="fork"
    )
    names = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    train, val = ([name for part in names for name in part[split]] for split in ("train", "val"))
    assert len(set(train)) == len(train) == TRAIN - 1
    samples = opened(shards, "val")
    assert sorted(val) == sorted(samples.name(index) for index in range(VAL))


def test_few_files_are_open_and_copies_read_alone(shards, monkeypatch):
    monkeypatch.setattr(shard_data, "OPEN_SHARDS", 1)
    samples = opened(shards)
    expected = [samples.encoded(index) for index in range(TRAIN)]
    assert samples._open.cache_info().currsize == 1
    with ThreadPoolExecutor(8) as pool:  # as `check` reads
        assert list(pool.map(samples.encoded, list(range(TRAIN)) * 20)) == expected * 20
    assert pickle.loads(pickle.dumps(samples)).encoded(7) == expected[7], "a spawned loader process gets no open files"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "index.json").unlink(), r"no file .*index.json; expected shards written by"),
        (lambda root: (root / "index.json").write_text("{"), r"index.json is no index of shards"),
        (lambda root: (root / "index.json").write_text("[]"), r"index.json is no index of shards"),
        (lambda root: edit(root, lambda index: index["classes"].update(names=[])), "is no index of shards"),
        (lambda root: edit(root, lambda index: index["splits"].pop("train")), "holds no train shards; it has val"),
        (
            lambda root: edit(root, lambda index: index["splits"]["train"]["shards"][1].update(file="../x.tar")),
            "'../x.tar' is no plain file name",
        ),
        (
            lambda root: edit(root, lambda index: index["splits"]["train"].update(samples=3)),
            "train.npz is no list of samples: its columns do not fit together",
        ),
        (
            lambda root: edit(root, lambda index: index["splits"]["train"]["shards"].pop()),
            "train.npz is no list of samples",
        ),
        (lambda root: (root / "train-00001.tar").unlink(), r"no file .*train-00001.tar, which index.json beside it"),
        (lambda root: os.truncate(root / "train-00001.tar", 2000), r"train-00001.tar has 2000 bytes, index.json"),
        (lambda root: (root / "train.npz").unlink(), r"no file .*train.npz"),
        (lambda root: os.truncate(root / "train.npz", 100), r"train.npz has 100 bytes"),
        (lambda root: flip(root / "train.npz", 300), r"train.npz is no list of samples: its checksum"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named_when_a_set_is_opened(copied, damage, message):
    damage(copied)
    with pytest.raises(DataError, match=message):
        opened(copied)


def edit(root: Path, change) -> None:
    index = json.loads((root / "index.json").read_text())
    change(index)
    (root / "index.json").write_text(json.dumps(index))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_one_changed_bit_of_an_image_is_found(copied):
    samples = opened(copied)
    file, last = samples.files[0], int(np.flatnonzero(samples.shards == 0)[-1])
    assert samples.encoded(last)
    message = rf"{file['file']} is damaged where .*{Path(samples.name(last)).name} lies: its checksum differs"
    flip(copied / file["file"], int(samples.offsets[last] + samples.sizes[last] // 2))
    for reader in (samples, opened(copied)):
        with pytest.raises(DataError, match=message):
            reader.encoded(last)
    os.truncate(copied / file["file"], 1000)  # after it was opened
    with pytest.raises(DataError, match=message):
        samples.encoded(last)


def test_shards_behind_a_url_are_copied_when_wanted(shards, copied, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    url = f"file://{copied}"
    samples = opened(url, cache=str(cache))
    assert [path.name.split("-", 1)[1] for path in (cache / "files").iterdir()] == ["train.npz"], "no shard is read yet"
    expected = [opened(shards).encoded(index) for index in range(TRAIN)]
    assert [samples.encoded(index) for index in range(TRAIN)] == expected
    for file in copied.glob("*.tar"):
        file.unlink()
    assert [opened(url, cache=str(cache)).encoded(index) for index in range(TRAIN)] == expected, "from the cache"
    assert not list(cache.rglob("*.part")) + list(cache.rglob("*.temp*"))


def test_the_cache_keeps_within_its_size(shards, tmp_path):
    largest = max(file["bytes"] for file in opened(shards).files)
    size = 2.5 * largest
    samples = opened(f"file://{shards}", cache=str(tmp_path), cache_size=size / 2**30)
    for index in range(TRAIN):
        samples._open.cache_clear()
        samples.encoded(index)
        assert sum(file.stat().st_size for file in (tmp_path / "files").iterdir()) <= size


def test_what_a_url_does_not_give_is_named(copied, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.raises(DataError, match=r"file:///nowhere/index.json cannot be fetched \(set data.root\)"):
        opened("file:///nowhere", cache=cache)
    with pytest.raises(DataError, match=r"odd://x/index.json cannot be fetched"):
        opened("odd://x", cache=cache)
    flip(copied / "train-00000.tar", 700)
    samples = opened(f"file://{copied}", cache=cache)
    index = int(np.flatnonzero(samples.shards == 0)[0])
    with pytest.raises(DataError, match=r"train-00000.tar is not the file that index.json beside it lists"):
        samples.encoded(index)
    assert not [path for path in Path(cache).rglob("*train-00000*") if path.suffix != ".lock"]


def test_without_webdataset_local_shards_are_read_and_the_rest_says_what_to_install(
    folders, shards, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert opened(shards).encoded(0)
    for job in (
        lambda: write_shards(FolderData(str(folders), **OPTIONS), tmp_path / "new"),
        lambda: opened(f"file://{shards}", cache=str(tmp_path)),
    ):
        with pytest.raises(ImportError, match=r"shards need webdataset; install it: uv pip install -e '.\[shards\]'"):
            job()
    assert not (tmp_path / "new").exists()


def test_a_folder_appears_whole_or_not_at_all(folders, shards, tmp_path, monkeypatch):
    data = FolderData(str(folders), **OPTIONS)
    with pytest.raises(ValueError, match=r"is there already and is never overwritten; delete it, or give another"):
        write_shards(data, shards)
    with pytest.raises(ValueError, match="shard_size=0: expected MiB above 0"):
        write_shards(data, tmp_path / "new", shard_size=0)
    files = data.samples("val")
    monkeypatch.setattr(data, "samples", lambda split: files)
    monkeypatch.setattr(files, "folder", tmp_path / "gone")
    with pytest.raises(DataError, match="gone"):
        write_shards(data, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_read_again(folders, tmp_path, monkeypatch):
    write = webdataset.TarWriter.write

    def failing(self, sample):
        return write(self, {key: b"x" * len(value) if key == "png" else value for key, value in sample.items()})

    monkeypatch.setattr(webdataset.TarWriter, "write", failing)
    with pytest.raises(OSError, match=r"train-00000.tar does not hold what was written"):
        write_shards(FolderData(str(folders), **OPTIONS), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_settings_are_checked(shards):
    for options in ({"order": "random"}, {"window": 0}):
        with pytest.raises(ValueError, match="expected samples or shards, and a number above 0"):
            ShardData(str(shards), **options, **OPTIONS)
