"""Tables of numbers on the terminal."""

import pytest

from tools.tables import print_table

PATH = "runs/a_long_name_of_a_run/export/onnx-fp32-argmax"


def shown(capsys, *table) -> str:
    print_table(*table)
    return capsys.readouterr().out


def test_a_title_wider_than_its_table_stays_one_line(capsys):
    assert f"{PATH}/best.ckpt on my [data]\n" in shown(
        capsys, f"{PATH}/best.ckpt on my [data]", ("metric", "value"), [("mIoU", 0.5)]
    )


@pytest.mark.parametrize("path", [PATH * 5, f"my runs/{PATH * 5}"])
def test_no_cell_is_cut_off(capsys, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "exported", ("format", "artifact"), [("onnx", path)])
    cells = "".join(line.split("│")[2].strip() for line in text.splitlines() if line.startswith("│"))
    assert cells.replace(" ", "") == path.replace(" ", "")


def test_a_score_that_is_not_defined_is_a_dash(capsys):
    text = shown(capsys, "scores", ("metric", "value"), [("top1", 0.25), ("precision", float("nan"))])
    assert "0.2500" in text and "nan" not in text and "│      - │" in text
