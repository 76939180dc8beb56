"""What a search reports keeps to what rewards can be, as far as anybody knows that."""

import math

import pytest

from agl_apo.moves import SEED, Candidate, Draw
from agl_apo.search.evidence import Evidence
from agl_apo.search.final import conclude, gate
from agl_apo.search.statistics import fit

CANDIDATES = {
    SEED: Candidate(candidate_id=SEED, texts={"p": "a"}),
    "best": Candidate(candidate_id="best", texts={"p": "b"}, parent_id=SEED, component="p"),
}


def concluded(seed, best):
    evidence = Evidence()
    for name, rewards in ((SEED, seed), ("best", best)):
        evidence.add(name, "val", [Draw(task_id=f"v{number}", reward=reward) for number, reward in enumerate(rewards)])
    test = gate("best", evidence, fit(evidence.cells, {SEED: None, "best": SEED}, step_sd=0.3))
    return conclude(CANDIDATES, evidence, decision="improved", reason="", best="best", test=test), test


@pytest.mark.parametrize("missing", [(), (None, math.nan)])
def test_a_gain_in_successes_is_no_more_than_all_of_them(missing):
    outcome, test = concluded([0, 0, 0, *missing], [1, 1, 1, *missing])
    assert test.high > 1  # what three tasks alone leave open
    assert (outcome.gain, outcome.gain_low, outcome.gain_high) == (1.0, test.low, 1.0)
    assert outcome.p_better == test.p_better
    outcome, _ = concluded([0, 1, 1, *missing], [1, 1, 1, *missing])
    assert [one.high for one in outcome.estimates] == [1.0, 1.0]
    assert all(0 < one.low < one.mean < 1 for one in outcome.estimates)
    outcome, test = concluded([1, 1, 1], [0, 0, 0])
    assert (test.low < -1, outcome.gain_low) == (True, -1.0)


@pytest.mark.parametrize("scale", [0.999, 5.0])
def test_of_other_rewards_no_limit_is_known_so_that_nothing_is_cut(scale):
    outcome, test = concluded([0, 0, 0], [scale] * 3)
    assert (outcome.gain_low, outcome.gain_high) == (test.low, test.high)
    assert outcome.gain_high > scale
    outcome, _ = concluded([0, scale, scale], [scale] * 3)
    assert all(one.low < one.mean < scale < one.high for one in outcome.estimates)


def test_without_a_test_there_is_no_interval():
    evidence = Evidence()
    evidence.add(SEED, "val", [Draw(task_id="v0", reward=1.0)])
    outcome = conclude(CANDIDATES, evidence, decision="no_evidence", reason="")
    assert math.isnan(outcome.gain_low)
    assert math.isnan(outcome.gain_high)
