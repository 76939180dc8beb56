import pytest
from apo_drive import SEED_TEXTS, TRAIN, VAL, Toy, drive

from agl_apo.moves import SEED, Evaluate, Proposal, Propose
from agl_apo.search import Beam, BeamOptions, beam_rollouts


@pytest.mark.parametrize(
    "options",
    [
        BeamOptions(),
        BeamOptions(beam_width=2, branch_factor=2, beam_rounds=2, val_batch_size=10),
        BeamOptions(beam_width=1, branch_factor=3, beam_rounds=4, gradient_batch_size=2, run_initial_validation=False),
        BeamOptions(beam_width=6, branch_factor=1, beam_rounds=2, val_batch_size=100, gradient_batch_size=100),
    ],
)
def test_it_takes_as_many_rollouts_as_its_formula_says(options):
    search, world = Beam(SEED_TEXTS, TRAIN, VAL, options), Toy()
    drive(search, world)
    assert world.plays == search.outcome.spent == beam_rollouts(options, len(VAL), len(TRAIN))


def test_the_defaults_take_1224_rollouts_with_30_validation_tasks():
    assert beam_rollouts(BeamOptions(), 30) == 1224
    assert beam_rollouts(BeamOptions(beam_width=2, branch_factor=2, beam_rounds=2, val_batch_size=10), 30) == 232


def test_the_same_seed_gives_the_same_search():
    one, other, third = (drive(Beam(SEED_TEXTS, TRAIN, VAL, seed=seed), Toy()) for seed in (1, 1, 2))
    assert one == other
    assert one != third


def test_parents_of_the_first_round_are_all_the_seed_and_a_batch_is_new_for_each_child():
    options = BeamOptions(beam_width=2, branch_factor=2, beam_rounds=1)
    told = drive(Beam(SEED_TEXTS, TRAIN, VAL, options), Toy())
    gradients = [move for move, _ in told if isinstance(move, Evaluate) and move.stage == "gradient"]
    assert [move.candidate.candidate_id for move in gradients] == [SEED] * 4
    assert len({move.tasks for move in gradients}) == 4
    assert len({task for move in gradients for task in move.tasks}) == 16


def test_old_and_new_are_compared_on_one_batch():
    told = drive(Beam(SEED_TEXTS, TRAIN, VAL, BeamOptions(beam_width=2, branch_factor=1, beam_rounds=1)), Toy())
    selected = [move for move, _ in told if isinstance(move, Evaluate) and move.stage == "select"]
    assert [move.candidate.candidate_id for move in selected] == [SEED, "c1", "c2"]
    assert len({move.tasks for move in selected}) == 1


def test_a_failed_proposal_is_a_child_with_its_parents_text():
    search = Beam(SEED_TEXTS, TRAIN, VAL, BeamOptions(beam_width=1, branch_factor=2, beam_rounds=1))
    drive(search, Toy(propose=lambda move, chance: Proposal(text=None, error="refused")))
    assert [one.texts for one in search.candidates.values()] == [SEED_TEXTS] * 3


def test_a_missing_reward_counts_as_0():
    search = Beam(SEED_TEXTS, TRAIN, VAL, BeamOptions(beam_width=1, branch_factor=1, beam_rounds=1))
    drive(search, Toy(rewards=lambda texts, task: None if "good" in str(texts) else 0.5, hit=1.0))
    assert search.outcome.winner.candidate_id == SEED
    assert search.outcome.estimates[0].mean == 0.5


def test_the_result_is_the_leader_with_strictly_more_on_all_validation_tasks():
    search = Beam(SEED_TEXTS, TRAIN, VAL, BeamOptions(beam_width=2, branch_factor=2, beam_rounds=2))
    world = Toy(hit=1.0)
    world.rewards = lambda texts, task: world.true(texts)
    drive(search, world)
    assert search.outcome.decision == "improved"
    assert world.true(search.outcome.winner.texts) == max(world.true(one.texts) for one in search.candidates.values())
    even = Beam(SEED_TEXTS, TRAIN, VAL)
    drive(even, Toy(rewards=lambda texts, task: 0.5))
    assert even.outcome.winner.candidate_id == SEED
    assert even.outcome.decision == "no_significant_improvement"


def test_the_proposer_is_told_what_failed_and_what_did_not():
    world = Toy(rewards=lambda texts, task: float(task.endswith(("1", "2"))))
    told = drive(Beam(SEED_TEXTS, TRAIN, VAL), world)
    asked = next(move for move, _ in told if isinstance(move, Propose))
    gradient = next(answer for move, answer in told if isinstance(move, Evaluate) and move.stage == "gradient")
    assert set(asked.failures) == {draw.rollout_id for draw in gradient if draw.reward < 1}
    assert set(asked.successes) == {draw.rollout_id for draw in gradient if draw.reward == 1}


def test_several_prompts_and_no_tasks_are_refused():
    with pytest.raises(ValueError, match="changes one prompt"):
        Beam({"a": "", "b": ""}, TRAIN, VAL)
    with pytest.raises(ValueError, match="needs training tasks"):
        Beam(SEED_TEXTS, TRAIN, [])
