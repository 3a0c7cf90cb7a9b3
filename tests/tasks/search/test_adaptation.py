"""The loop of NetAdapt on literal numbers, killed anywhere, and shared among processes."""

import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import asdict

import pytest

from tasks.search import journal
from tasks.search.proposals import Proposal, pick, proposals
from tests.tasks.search.fake_lab import FakeLab, run


def changes(steps):
    """Width, channels, ms and metric of each iteration."""
    return [(step.changed, step.widths[step.changed], round(step.measured, 3), round(step.metric, 3))
            for step in steps[1:]]  # fmt: skip


def test_three_iterations_of_the_original_by_hand(tmp_path):
    """Each saves 0.15 x 8 = 1.2 ms at least. A channel of a takes 0.05 ms, of b 0.025, of c 0.1.

    1. a: 64 - 1.2 / 0.05 = 40. b: 64 - 1.2 / 0.025 = 16. c: 32 - 12 = 20, so 16. They cost 24 x 0.004 = 0.096,
       48 x 0.004 = 0.192 and 16 x 0.02 = 0.32: a, 8.0 - 1.2 = 6.8 ms. Its squeeze 16 follows: 40 / 4 = 10, so 16 by
       the rule of make_divisible (8 is more than 10 % below 10).
    2. a: 40 - 24 = 16, metric 1 - 0.096 - 0.096 = 0.808. b: 16, 0.712. c: 16, 0.584: a again, 5.6 ms.
    3. a: 8 at the least saves 0.4. b: 16, 0.808 - 0.192 = 0.616. c: 16, 0.808 - 0.32 = 0.488: b, 4.4 ms.
    4. 0.4 ms are left, and so the cut: a: 8, 0.776 - 0.192 = 0.584. b: 16 channels less are not there: 8 saves 0.2.
       c: 32 - 4 = 28, so 24: 0.616 - 0.16 = 0.456: a, 4.0 ms, which is the target.
    """
    lab = FakeLab()
    steps = run(tmp_path, lab)
    assert changes(steps) == [
        ("a.expand", 40, 6.8, 0.904), ("a.expand", 16, 5.6, 0.808), ("b.expand", 16, 4.4, 0.616),
        ("a.expand", 8, 4.0, 0.584),
    ]  # fmt: skip
    assert [step.candidates for step in steps] == [0, 3, 3, 2, 2]
    assert [step.widths["a.squeeze"] for step in steps] == [16, 16, 8, 8, 8]
    assert [name for name, _ in lab.trained[:3]] == ["a.expand", "b.expand", "c.out"]
    assert {seed for _, seed in lab.trained[:3]} == {8}, "the same batches for all candidates of an iteration"
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.ckpt"))
    assert kept == sorted({"start.ckpt", *(step.checkpoint for step in steps)})


def test_the_ratio_takes_a_larger_cut_where_a_ms_costs_less():
    """c saves 1.6 ms for 0.32, 0.2 a ms; a 1.2 for 0.096, 0.08 a ms."""
    a, c = Proposal("a.expand", {}, 6.8), Proposal("c.out", {}, 6.4)
    assert pick([(a, 0.904), (c, 0.68)], 1.0, 8.0, "ratio") == 0
    assert pick([(a, 0.904), (c, 0.89)], 1.0, 8.0, "ratio") == 1, "0.11 / 1.6 is less than 0.096 / 1.2"
    assert pick([(a, 0.904), (c, 0.89)], 1.0, 8.0, "metric") == 0
    assert pick([(a, float("nan")), (c, 0.1)], 1.0, 8.0) == 1
    assert pick([(a, float("nan"))], 1.0, 8.0) is None


def test_a_width_between_two_measured_ones_is_the_largest_that_saves_enough():
    asked = []

    def steep(widths):
        """Half of the slope below 48."""
        asked.append(widths["a"])
        return 0.1 * max(widths["a"] - 48, 0) + 0.05 * min(widths["a"], 48)

    (found,) = proposals(steep, {"a": 64}, {"a": 64}, 2.0, names=["a"])
    assert (found.widths["a"], round(found.ms, 6)) == (40, 2.0), "64 to 48 saves 1.6 and the next 8 channels 0.4"
    assert asked == [64, 48, 32], "quarters of 64, from the top, until one saves enough"
    (found,) = proposals(steep, {"a": 64}, {"a": 64}, 0.8, names=["a"])
    assert found.widths["a"] == 56
    assert not proposals(steep, {"a": 64}, {"a": 64}, 3.9, names=["a"]), "8 saves 3.6"
    asked.clear()
    assert not proposals(steep, {"a": 64}, {"a": 64}, 1.0, names=["a"], most_saved=lambda *_: 0.9) and asked == [64]


def test_where_no_width_saves_enough_a_smaller_cut_is_tried_and_the_end_is_told(tmp_path):
    lab = FakeLab()
    lab.names = ("b.expand",)
    with pytest.raises(ValueError, match=r"no width saves .* the search ends at 6.6 ms.*iteration-002/b.expand.ckpt"):
        run(tmp_path, lab, first_cut=0.2, target=6.0)
    found = [json.loads((tmp_path / f"iteration-00{number}" / "proposals.json").read_text()) for number in (1, 2)]
    assert [one["cut"] for one in found] == pytest.approx([0.8, 0.6]), "64 to 8 saves 1.4 ms, not the 1.6 of first_cut"
    assert [one["proposals"][0]["widths"]["b.expand"] for one in found] == [32, 8]


def test_a_search_that_is_interrupted_anywhere_ends_alike_and_trains_nothing_twice(tmp_path):
    whole = FakeLab()
    expected = [asdict(step) for step in run(tmp_path / "whole", whole)]
    for fail_at in range(1, whole.asked + 1):
        folder, first, again = tmp_path / str(fail_at), FakeLab(fail_at), FakeLab()
        with pytest.raises(KeyboardInterrupt):
            run(folder, first)
        assert [asdict(step) for step in run(folder, again)] == expected
        assert first.trained + again.trained == whole.trained


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
def test_five_kills_in_a_row_end_in_the_same_files(tmp_path):
    """SIGKILL of a process that trains for 10 ms at a time; it is begun anew until it comes to its end."""
    expected, draw, kills = [asdict(step) for step in run(tmp_path / "whole", FakeLab())], random.Random(1), 0
    while kills < 5:
        child = os.fork()
        if not child:
            with suppress(BaseException):
                run(tmp_path / "killed", FakeLab(pause=0.01))
            os._exit(0)
        time.sleep(draw.uniform(0.01, 0.06))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it was killed, and had not come to its end"
        kills += 1
    assert [asdict(step) for step in run(tmp_path / "killed", FakeLab())] == expected
    whole, killed = (
        {path.relative_to(root): path.read_text() for path in root.rglob("*.json")}
        for root in (tmp_path / "whole", tmp_path / "killed")
    )
    assert whole == killed


def test_processes_share_the_candidates_and_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PAUSE", 0.002)
    alone, labs, found = FakeLab(), [FakeLab(), FakeLab()], {}
    expected = run(tmp_path / "alone", alone)
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: run(tmp_path / "both", labs[rank], rank, 2)}))
        for rank in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {0: expected, 1: expected}
    assert sorted(labs[0].trained + labs[1].trained) == sorted(alone.trained)
    assert [name for name, _ in labs[1].trained] == ["b.expand", "b.expand", "c.out", "c.out"]


def test_a_process_that_waits_hears_of_the_end_of_another(tmp_path):
    def ended():
        raise ValueError("process 1 has ended")

    with pytest.raises(ValueError, match="process 1 has ended"):
        journal.Journal(tmp_path, 0, 2, ended).result("x", dict, owner=1)
