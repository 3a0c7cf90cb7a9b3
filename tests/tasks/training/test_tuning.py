"""A search: its space, a study that outlives kills and failing trials, its table and picture."""

import json
import sys

import pytest

from tasks.files.images import read_image
from tasks.training import tuning
from tasks.training.search_space import parse_space
from tests.tasks.conftest import composed
from tools.command_line import override_of

SPACE = "{optimizer.lr: [1e-4, 1e-1, log], optimizer: [sgd, adamw]}"
WORDS = ["task=segmentation", "seed=3"]
# In place of tools/train.py: the score is the rate; a rate above 0.01 fails.
SCRIPT = """
import json, pathlib, sys
given = dict(word.split("=", 1) for word in sys.argv[1:])
rate, folder = float(given["optimizer.lr"]), pathlib.Path(given["output_dir"].strip('"'))
assert given["resume"] == "auto" and given["seed"] == "3"
if rate > 0.01:
    sys.exit(f"error: the rate {rate} is too high")
folder.mkdir()
(folder / "metrics.json").write_text(json.dumps({"val/mIoU": 0.0, "best/mIoU": rate}))
"""


@pytest.fixture
def search(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)

    def run(*words: str, space: str = SPACE, script: str = "train.py"):
        config = composed("tune", *WORDS, f"search={space}", f"output_dir={tmp_path / 'study'}", *words)
        return tuning.tune(config, WORDS, override_of, tmp_path / script)

    return run


@pytest.mark.long
def test_a_search_goes_on_after_a_kill_with_the_trial_that_it_was_at(search, tmp_path, monkeypatch, caplog):
    run, killed = tuning._run, []

    def kill_the_third(command, log):
        if "trial-002" in str(log) and not killed:
            killed.append(command)
            raise KeyboardInterrupt
        return run(command, log)

    monkeypatch.setattr(tuning, "_run", kill_the_third)
    draw = tuning.draw_tuning
    monkeypatch.setattr(tuning, "draw_tuning", lambda rows, *more: len(rows) == 5 and draw(rows, *more))
    with pytest.raises(KeyboardInterrupt):
        search("trials=5")
    tables, best, score = search("trials=5")
    found = json.loads((tmp_path / "study" / "tuning.json").read_text())
    assert found["monitor"] == "val/mIoU" and len(found["trials"]) == 5
    again = next(row for row in found["trials"] if row["trial"] == "trial-002")
    assert set(again["words"]) < set(killed[0]), "with the same values, in the same folder"
    failed = [row for row in found["trials"] if row["error"]]
    scored = [row for row in found["trials"] if not row["error"]]
    assert failed and len(scored) >= 2
    assert all(float(row["words"][0].partition("=")[2]) > 0.01 and "is too high" in row["error"] for row in failed)
    assert score == max(row["score"] for row in scored) and best[0] == f"optimizer.lr={score}"
    (_, columns, cells) = tables[0]
    assert columns == ("trial", "score", "overrides", "status") and len(cells) == 5
    assert [row[3] for row in cells] == ["done"] * len(scored) + [f"failed: {row['error']}" for row in failed]
    assert len({row["words"][0] for row in found["trials"]}) == 5, "no value is drawn again after the kill"
    picture = read_image(tmp_path / "study" / "tuning.png")
    assert picture.std() > 5

    with pytest.raises(ValueError, match=r"study holds a search with another search: \{.*give another output_dir="):
        search("trials=6", space="{seed: [1, 2]}")
    with pytest.raises(ValueError, match="leave checkpoint=, resume= and overwrite= out"):
        search("overwrite=true")


def test_a_search_whose_first_trials_all_fail_ends_there(search, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "draw_tuning", lambda *_: None)
    with pytest.raises(ValueError, match=r"the first 3 trials failed, the last one: the rate [\d.]+ is too high"):
        search("trials=9", space="{optimizer.lr: [0.1, 0.2, float]}")
    (tmp_path / "study" / "study.db").unlink()
    (tmp_path / "broken.py").write_text("import sys; sys.exit(7)")
    with pytest.raises(ValueError, match=r"all 1 trials failed, the last one: it ended with status 7; see .*000\.log"):
        search("trials=1", script="broken.py")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (None, r"search= says what to search"),
        ({"a": [1, 0.1, "log"]}, r"a=\[1, 0\.1, 'log'\]: expected two numbers, the lower first, above 0"),
        ({"a": [0, 1, "log"]}, r"above 0"),
        ({"a": [0.5, 3, "int"]}, r"whole ones"),
        ({"a": [1, 2, "lin"]}, r"expected \[low, high, log\], \[low, high, int\], \[low, high, float\], or a list"),
        ({"a": [1]}, r"at least two choices"),
        ({"a": 3}, r"search: a=3: expected"),
    ],
)
def test_a_space_that_cannot_be_is_refused(search, message):
    with pytest.raises(ValueError, match=message):
        parse_space(search)


def test_the_tool_names_a_misspelt_setting_before_the_first_trial(run_tool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tasks.training.tuning", None)  # nothing is searched
    words = 'tools/tune.py task=segmentation trials=2 "search={optimizer.lrr: [1e-4, 1e-1, log]}"'
    status, _, err = run_tool(words)
    assert status == 1 and "optimizer.lrr=: no key lrr in optimizer; did you mean lr" in err
    assert not any(tmp_path.iterdir())
