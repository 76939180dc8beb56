"""The benchmark with a real model: its task, its controls and its figures; the model itself is not run here."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "apo"))

import real_model
from notes import GUESSES, REMEDIES, SEED_PROMPT, Shuffle, judge, make_tasks

TASK = {"name": "Anna", "count": 3, "day": "Monday"}


@pytest.mark.parametrize(
    ("said", "reward", "wrong"),
    [
        ('{"name": "Anna", "count": 3, "day": "Monday"}', 1.0, []),
        ('{"name": "anna", "count": "3", "day": "Monday"}\nThat is all.', 1.0, []),
        ('```{"name": "Anna", "count": 3}```', 0.5, ["the answer does not begin with a brace", "no right day in the answer"]),
        ('{"name": "Anna", ', 0.25, [f"no right {name} in the answer" for name in ("name", "count", "day")]),
        ("Anna wants 3 on Monday", 0.0, None),
    ],
)
def test_an_answer_is_judged_by_its_form_and_its_values(said, reward, wrong):
    found = judge(TASK, said)
    assert found[0] == reward
    assert wrong is None or found[1] == wrong


def test_each_fault_has_a_remedy_and_no_guess_is_one():
    import re

    faults = judge(TASK, "nothing")[1]
    assert [fault for fault in faults if not any(re.search(symptom, fault) for symptom in REMEDIES)] == []
    assert set(REMEDIES.values()).isdisjoint(GUESSES)
    assert not [remedy for remedy in REMEDIES.values() if remedy in SEED_PROMPT]


def test_no_note_is_in_two_splits_and_other_seeds_have_other_notes():
    tasks = make_tasks(0, train=30, val=30, test=60)
    notes = [task["note"] for split in tasks.values() for task in split]
    assert len(set(notes)) == len(notes) == 120
    assert make_tasks(0, train=30)["train"] == tasks["train"]
    assert make_tasks(1, train=30)["train"] != tasks["train"]


def test_shuffled_rewards_are_those_of_earlier_rollouts():
    shuffle = Shuffle(0)
    given = [shuffle(reward) for reward in [0.25] * 5 + [1.0] * 200]
    assert given[:5] == [0.25] * 5
    assert given[5] == 0.25  # the first good one gets the reward of one before it
    assert set(given) == {0.25, 1.0}


def row(arm, gain, seed=0, half=0.1):
    return {"arm": arm, "seed": seed, "gain": gain, "low": gain - half, "high": gain + half, "reported": gain + 0.05}


def test_figures_are_means_over_seeds_and_the_worse_control_counts():
    rows = [row("critic", gain, seed) for seed, gain in enumerate((0.2, 0.4, 0.6))]
    rows += [row("ignorant critic", 0.0), row("shuffled rewards", 0.06)]
    told = real_model.figures(rows)
    assert (told["gain"], told["least_low"], told["largest_control_gain"]) == (0.4, 0.1, 0.06)
    assert told["gain_high"] - told["gain"] == pytest.approx(0.1 / 3**0.5, abs=1e-4)
    assert told["reported_minus_test"] == 0.05
    assert real_model.THRESHOLDS.keys() <= told.keys()
    assert [real_model.reached(told[name], sign, limit) for name, (sign, limit) in real_model.THRESHOLDS.items()] == [True, True, False]
