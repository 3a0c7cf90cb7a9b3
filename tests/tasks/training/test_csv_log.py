"""Numbers on disk: JSON without what JSON does not have."""

import json
import math

import numpy as np
import pytest

from tasks.benchmark.store import append_row, read_rows
from tasks.files.writing import write_json
from tasks.training.csv_log import CsvLog

CONTENT = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, None, "NaN")}], "d": 3, "e": np.float64("nan")}
EXPECTED = {"a": None, "b": [1.5, None, {"c": [None, None, "NaN"]}], "d": 3, "e": None}


def strict(text: str):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"JSON holds {name}"))


def test_json_holds_null_where_a_number_is_none(tmp_path):
    write_json(tmp_path / "x.json", CONTENT)
    assert strict((tmp_path / "x.json").read_text()) == EXPECTED
    write_json(tmp_path / "list.json", [CONTENT, math.nan])
    assert strict((tmp_path / "list.json").read_text()) == [EXPECTED, None]
    assert math.isnan(CONTENT["a"]), "what is written stays as it is"


def test_measurements_are_json_too(tmp_path):
    append_row(tmp_path / "store.jsonl", {"runtime": "eager", "ms": math.nan})
    assert strict((tmp_path / "store.jsonl").read_text())["ms"] is None
    assert read_rows(tmp_path / "store.jsonl") == [{"runtime": "eager", "ms": None}]


def test_a_csv_keeps_numbers_that_are_none_for_a_resumed_run(tmp_path):
    log = CsvLog(tmp_path)
    log.log_metrics({"val/mAP": math.nan, "train/loss": 0.5}, step=1)
    log.save()
    again = CsvLog(tmp_path, keep_before=2).latest()
    assert math.isnan(float(again["val/mAP"])) and float(again["train/loss"]) == 0.5
