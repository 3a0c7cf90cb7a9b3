"""Candidates, rewards and the front on literal numbers; a search that goes on draws what it would have drawn."""

import math
from pathlib import Path

import optuna
import pytest

from backbones.searched import Stage, parse_stages
from tasks.search.block_space import BlockSpace, block_space
from tasks.search.exploration import SAMPLERS, Measured, explore, reward
from tasks.training.study import open_study

STAGES = [
    {"kernel": 3, "expansion": 1, "out": 16, "depth": 1},
    *({"kernel": 3, "expansion": 6, "out": out, "depth": 2, "stride": 2} for out in (32, 40, 80, 160)),
]
CHOICES = {"kernels": [5, 3], "expansions": [3, 6], "squeeze_excite": [False], "depths": [0], "widths": [1.0]}
FULL = {"kernels": [3, 5], "expansions": [3, 4, 6], "squeeze_excite": [False, True], "depths": [-1, 0, 1],
        "widths": [0.75, 1.0, 1.25]}  # fmt: skip


@pytest.fixture(autouse=True)
def studies_in_memory(monkeypatch):
    """A database takes most of a second a trial; tests of tools/tune.py have it on disk."""
    stores, create = {}, optuna.create_study

    def in_memory(storage, **options):
        return create(storage=stores.setdefault(storage, optuna.storages.InMemoryStorage()), **options)

    monkeypatch.setattr(optuna, "create_study", in_memory)


def ideal(stages, place) -> Measured:
    """Larger kernels are better and slower; expansions are of no use. No two stages weigh the same."""
    kernels, expansions = (
        sum((1 + place / 7) * getattr(stage, key) for place, stage in enumerate(stages))
        for key in ("kernel", "expansion")
    )
    return Measured(kernels / 25, kernels + expansions)


def run(folder: Path, evaluate=ideal, *, trials: int = 14, sampler: str = "tpe", seed: int = 0, settings=CHOICES):
    directions = ("maximize", "minimize") if sampler == "nsga2" else ("maximize",)
    study = open_study(folder, "test", {}, directions)
    return explore(
        study, block_space(STAGES, settings), evaluate, folder, trials=trials, sampler=sampler, seed=seed,
        target_ms=10.0, exponent=-0.07,
    )  # fmt: skip


def test_the_reward_is_the_papers():
    assert reward(0.75, 10, 10, -0.07) == 0.75
    assert reward(0.75, 20, 10, -0.07) == pytest.approx(0.75 * 0.95264, abs=1e-5)  # 2^-0.07: 5 % for twice the time
    assert reward(0.75, 20, 10, -0.15) == pytest.approx(0.75 * 0.90125, abs=1e-5)
    assert reward(0.75, 5, 10, -0.07) > 0.75


def test_a_stage_may_be_what_the_settings_say():
    space = block_space(STAGES, FULL)
    first, second = (space.choices(stage) for stage in parse_stages(STAGES)[:2])
    assert first == {"kernel": [3, 5], "expansion": [1], "squeeze_excite": [False], "depth": [1, 2], "out": [16, 24]}
    assert second == {"kernel": [3, 5], "expansion": [3, 4, 6], "squeeze_excite": [False, True], "depth": [1, 2, 3],
                      "out": [24, 32, 40]}  # fmt: skip
    assert space.choices(Stage(3, 6, 40, 2))["out"] == [32, 40, 48]
    assert block_space(STAGES, CHOICES).size() == 2**5 * 2**4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": [3, 4]}, r"platform_aware\.kernels: 4: expected an odd number"),
        ({"expansions": [0.5]}, r"platform_aware\.expansions: 0\.5: expected a whole number"),
        ({"squeeze_excite": [1]}, r"platform_aware\.squeeze_excite: 1: expected true or false"),
        ({"depths": [0.5]}, r"platform_aware\.depths=\[0\.5\]: expected whole numbers"),
        ({"widths": [0.0, 1.0]}, r"platform_aware\.widths=\[0\.0, 1\.0\]: expected factors above 0"),
        ({"widths": 1.0}, r"platform_aware\.widths=1\.0: expected a list of choices"),
        ({"kernels": [3], "expansions": [6]}, "the choices leave one network"),
    ],
)
def test_a_choice_that_cannot_be_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        block_space(STAGES, CHOICES | change)


def test_candidates_carry_their_rewards_and_the_front_is_marked(tmp_path):
    results = iter([Measured(0.5, 5), Measured(0.6, 20), Measured(0.55, 30), Measured(0.5, 4), Measured(0.6, 20)])
    found = run(tmp_path, lambda stages, place: next(results), trials=5, settings=FULL)
    assert [one.on_front for one in found] == [False, True, False, True, False]
    assert [round(one.reward, 4) for one in found] == [0.5249, 0.5716, 0.5093, 0.5331, 0.5716]
    assert [one.name for one in found] == [f"trial-00{place}" for place in range(5)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_was_killed_draws_on_as_an_undisturbed_one(sampler, tmp_path):
    tried = []

    def killed(stages, place):
        tried.append((place.name, stages))
        if len(tried) == 8:
            raise KeyboardInterrupt
        return ideal(stages, place)

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", sampler=sampler)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", killed, sampler=sampler)
    again = run(tmp_path / "killed", killed, sampler=sampler)
    assert [one.stages for one in again] == [one.stages for one in whole] and len(whole) == 14
    assert tried[7] == tried[8], "it goes on with the candidate that it was at, in its folder"
    assert len({one.stages for one in whole}) == len(tried) - 1, "what was tried before is not tried again"
    other = run(tmp_path, sampler=sampler, seed=1, trials=3)
    assert [one.stages for one in other] != [one.stages for one in whole[:3]]


def test_a_sampler_learns_that_expansions_are_of_no_use(tmp_path):
    found = run(tmp_path, trials=40)
    early, late = ([sum(stage.expansion for stage in one.stages) for one in part] for part in (found[:10], found[-10:]))
    assert sum(late) < sum(early) - 10


def test_failing_candidates_are_told_and_passed_over_unless_the_first_three_fail(tmp_path, caplog):
    def evaluate(stages, place):
        if place.name == "trial-001":
            raise ValueError("onnx fp32: no such operator")
        return Measured(math.nan, 3.0) if place.name == "trial-003" else ideal(stages, place)

    found = run(tmp_path, evaluate, trials=6)
    errors = {one.name: one.error for one in found if one.error}
    assert errors == {"trial-001": "onnx fp32: no such operator", "trial-003": "its metric was not defined"}
    assert "failed, and passed over: onnx fp32: no such operator" in caplog.text
    assert all(math.isnan(one.reward) and not one.on_front for one in found if one.error)

    def refuse(stages, place):
        raise ValueError("not here")

    (tmp_path / "second").mkdir()
    with pytest.raises(ValueError, match="the first 3 trials failed, the last one: not here"):
        run(tmp_path / "second", refuse)


def test_a_space_without_expansion_keeps_what_it_has():
    excited = Stage(3, 1, 16, 1, squeeze_excite=True)
    assert BlockSpace((excited,)).choices(excited)["squeeze_excite"] == [True]
