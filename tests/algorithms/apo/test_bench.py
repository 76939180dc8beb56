"""What `make bench-apo` counts and says."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("gepa")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks" / "apo"))

import run
from arms import ABLATIONS, ARMS


def row(world, arm, budget, gain, *, optimism=0.01, seed=0):
    return {
        "world": world,
        "seed": seed,
        "arm": arm,
        "budget": budget,
        "gain": gain,
        "optimism": optimism,
        "covered": True,
        "spent": 1,
        "proposals": 1,
    }


@pytest.fixture
def rows():
    gains = {"racing": 0.4, "gepa": 0.2, "beam": 0.1, "random": 0.0, "seed": 0.0}
    made = []
    for seed in range(4):
        for budget in run.BUDGETS:
            for arm, gain in gains.items():
                made += [row(world, arm, budget, gain, seed=seed) for world in ("planted", "noise-free", "null")]
                made.append(row("several components", arm, budget, 0.0 if arm == "beam" else gain, seed=seed))
    return made


@pytest.mark.parametrize("arm", [*ARMS, "no repair"])
def test_every_arm_plays_within_its_budget(arm):
    found = run.one(("dev", 0, 3, arm, 240))
    over = 2 * 3 + 30 if arm == "gepa" else 0  # it looks at its budget between its steps only
    assert found["spent"] <= 240 + over
    assert found == run.one(("dev", 0, 3, arm, 240))
    assert arm in {**ARMS, **ABLATIONS}


def test_gains_are_averaged_over_noisy_worlds_and_the_beam_has_one_prompt(rows):
    told = run.figures(rows)
    assert told["gain_vs_gepa_240"] == told["gain_vs_gepa_1224_low"] == 2.0
    assert told["gain_vs_beam"] == 4.0
    assert told["gain_beam_240"] == 0.05
    assert told["reported_minus_true"] == 0.01
    assert run.THRESHOLDS.keys() <= told.keys()


def test_harm_is_the_share_of_null_worlds_that_end_below_their_seed(rows):
    rows = [row("null", "racing", 240, -0.1), *rows]
    assert run.figures(rows)["null_harm"] == 0.2


def test_a_worse_optimism_of_one_budget_is_the_one_that_counts(rows):
    rows = [{**one, "optimism": 0.09} if one["arm"] == "racing" and one["budget"] == 1224 else one for one in rows]
    assert run.figures(rows)["reported_minus_true"] == 0.09


def test_it_goes_on_with_the_rows_that_are_there_and_ends_with_one_object(rows, tmp_path, monkeypatch, capsys):
    out = tmp_path / "runs.jsonl"
    monkeypatch.setattr(run, "SUITES", {"dev": ([], 0)})
    out.write_text("".join(json.dumps({"suite": "dev", **one}) + "\n" for one in rows))
    monkeypatch.setattr(
        sys, "argv", ["run.py", "--suite", "dev", "--seeds", "0", "--null-seeds", "0", "--processes", "1", "--resume", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as ended:
        run.main()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ended.value.code == 0
    assert last["missed"] == []
    assert last["gain_vs_gepa_240"] == 2.0
