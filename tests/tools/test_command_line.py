"""The command line goes through Hydra's grammar; what that refuses is shown as a shell takes it."""

import re
import shlex

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.tasks.conftest import composed
from tools import cli
from tools.command_line import CommandLine, composed_as_far_as_possible, override_of


def test_values_are_what_hydra_makes_of_them(monkeypatch):
    monkeypatch.setenv("CKPT", "runs/epoch=3/best.ckpt")
    for word, value in (
        ("checkpoint='runs/lr=0.1 (a), b/best.ckpt'", "runs/lr=0.1 (a), b/best.ckpt"),
        ('checkpoint="it\'s/best.ckpt"', "it's/best.ckpt"),
        ("checkpoint=runs/epoch\\=3/best.ckpt", "runs/epoch=3/best.ckpt"),
        ("checkpoint=${oc.env:CKPT}", "runs/epoch=3/best.ckpt"),
        ("+checkpoint=a.ckpt", "a.ckpt"), ("++checkpoint=a.ckpt", "a.ckpt"), ("checkpoint=null", None),
    ):  # fmt: skip
        assert CommandLine([word]).values() == {"checkpoint": value}, word
    line = CommandLine(["output_dir=runs/x", "backbone=mnv2", "checkpoint=${output_dir}/best.ckpt", "~task", "a.b=1"])
    assert line.values() == {"output_dir": "runs/x", "backbone": "mnv2", "checkpoint": "runs/x/best.ckpt", "a.b": 1}
    assert line.words_of("backbone") == ["backbone=mnv2"] and not line.multirun


def test_of_a_sweep_the_first_job_counts():
    line = CommandLine(["-m", "checkpoint='a, b/x',c", "seed=1,2", "task=detection"])
    assert line.multirun and line.values() == {"checkpoint": "a, b/x", "seed": 1, "task": "detection"}
    assert CommandLine(["checkpoint=a,b"]).values() == {"checkpoint": None}, "Hydra's own error tells of -m"


PATHS = ["~/none", "/data/josé", "图像", "a&b", "x(1)", "/x/[y]", "it's", 'say "hi"', "a=b", "a#b", "{x", "x;y", "a!b",
         "a`b", "<x>", "back\\", "a'b'c", "x}y", "end\\\"=", "ß,=é"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_refused_path_is_shown_in_quotes_that_work_in_a_shell(path):
    try:
        assert CommandLine([f"data.root={path}"]).values()["data.root"] == path
    except ValueError as error:
        assert str(error).startswith(f"data.root={path}: ")
        (word,) = shlex.split(str(error).rpartition("shell: ")[2])
        assert CommandLine([word]).values() == {"data.root": path}


@pytest.mark.parametrize(("value", "meant"), [
    ("[a,é, 'b c']", ["a", "é", "b c"]), ("{a: é, b: [1, x(1)]}", {"a": "é", "b": [1, "x(1)"]}),
])  # fmt: skip
def test_texts_within_lists_and_dictionaries_get_their_own_quotes(value, meant):
    with pytest.raises(ValueError, match="needs quotes") as caught:
        CommandLine([f"x={value}"])
    (word,) = shlex.split(str(caught.value).rpartition("shell: ")[2])
    assert CommandLine([word]).values() == {"x": meant}


def test_a_word_that_sets_nothing_is_named():
    with pytest.raises(ValueError, match=r"^output_dir: expected key=value"):
        CommandLine(["output_dir"])


def test_hints_see_configurations_of_the_users_own(tmp_path):
    composed("train")  # registers the schemas
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [coco]\nfoo_bar: 1\n")
    words = ["--config-dir", str(tmp_path), "task=detection", "data=mine", "data.fooo=2", "lr=3", "optimizer.lr=0.5"]
    config = composed_as_far_as_possible(words, "train", ROOT / "conf")
    assert config.data.foo_bar == 1 and config.optimizer.lr == 0.5, "what nothing takes is left out, the rest stays"
    assert not re.search("fooo", str(config))


def test_hints_of_a_misspelt_key_compose_nothing_again(monkeypatch):
    monkeypatch.setattr("tools.messages.composed_as_far_as_possible", lambda *_, **__: pytest.fail("composed again"))
    with pytest.raises(ValueError, match=r"no key widht in backbone; did you mean width"):
        cli.composed("train", ["task=segmentation", "backbone.widht=1", "backbone.depht=2"])


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (np.float64(0.001), "a.b=0.001"), (np.int64(3), "a.b=3"), (True, "a.b=true"), (None, "a.b=null"),
        ([np.float32(0.5), "x y"], "a.b=[0.5,'x y']"),
    ],
)  # fmt: skip
def test_a_setting_of_python_is_a_word_that_means_it(value, word):
    assert override_of("a.b", value).replace('"', "'") == word
    assert CommandLine([override_of("a.b", value)]).values()["a.b"] == (
        [0.5, "x y"] if isinstance(value, list) else value
    )
