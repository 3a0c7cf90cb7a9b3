"""Scores of rounded artifacts on processors whose kernels differ from those of the certificate."""

import logging
from types import SimpleNamespace

import pytest
import torch

from tasks import evaluate
from tasks.deploy import instruction_set as processors
from tasks.deploy.instruction_set import ABILITIES, differences, instruction_set
from tests.tasks.conftest import composed

PLAIN = "x86_64 with avx2 f16c, without avx512_f avx_vnni"


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        (PLAIN, []),
        ("x86_64 with avx2 f16c avx_vnni, without avx512_f", ["avx_vnni"]),
        ("x86_64 with avx2, without f16c amx_int8", ["f16c"]),  # the first says nothing of the last
        ("aarch64 with neon dot, without i8mm", ["x86_64", "aarch64"]),
        ("what an older version wrote", []),
    ],
)
def test_processors_differ_in_what_both_lines_name(other, apart):
    assert differences(PLAIN, other) == apart


@pytest.mark.parametrize(("precision", "told"), [("int8", 1), ("w8a16", 1), ("fp16", 1), ("fp32", 0)])
def test_an_evaluation_warns_of_other_kernels(precision, told, monkeypatch, caplog):
    here = torch.cpu.get_capabilities() | {"architecture": "x86_64"} | dict.fromkeys(ABILITIES[:4], True)
    monkeypatch.setattr(processors.torch.cpu, "get_capabilities", lambda: here)
    manifest = SimpleNamespace(precision=precision, config={}, measured_on={"instruction_set": PLAIN})
    monkeypatch.setattr(evaluate, "load_runtime", lambda path, threads: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr(evaluate, "check_fixed_settings", lambda *_: 1 / 0)  # behind the warning
    for measured in (PLAIN, instruction_set(), None):
        manifest.measured_on = {"instruction_set": measured} if measured else {}
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(ZeroDivisionError):  # in place of the evaluation itself
            evaluate.evaluate_artifact(composed("evaluate", "artifact=x"))
        assert len(caplog.messages) == (told if measured == PLAIN else 0)
        assert not caplog.messages or "differs in avx512_f, avx_vnni: kernels of" in caplog.messages[0]
