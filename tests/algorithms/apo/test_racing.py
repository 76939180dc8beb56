import math
from random import Random

import msgspec
import pytest
from apo_drive import SEED_TEXTS, TRAIN, VAL, Toy, drive

from agl_apo.moves import SEED, Draw, Evaluate, Proposal, Propose, Repair
from agl_apo.search import GuardOptions, Racing, RacingOptions


def racing(seed=0, *, texts=SEED_TEXTS, records_text=None, **options):
    return Racing(texts, TRAIN, VAL, RacingOptions(**options), seed=seed, records_text=records_text)


def evaluations(told, stage):
    return [move for move, _ in told if isinstance(move, Evaluate) and move.stage == stage]


def test_it_finds_better_prompts_and_says_how_sure_it_is():
    search, world = racing(max_rollouts=300), Toy()
    drive(search, world)
    outcome = search.outcome
    assert outcome.decision == "improved"
    assert outcome.winner == outcome.best == search.candidates[outcome.winner.candidate_id]
    assert world.true(outcome.winner.texts) > 0.6 > world.true(outcome.seed.texts)
    assert outcome.p_better >= 0.95
    assert outcome.gain_low < outcome.gain < outcome.gain_high
    assert outcome.pairs > 5
    assert "is used" in outcome.reason
    estimates = {one.candidate_id: one for one in outcome.estimates}
    assert {SEED, outcome.winner.candidate_id} <= set(estimates)
    assert [one.mean for one in outcome.estimates] == sorted((one.mean for one in outcome.estimates), reverse=True)
    assert all(one.low < one.mean < one.high for one in outcome.estimates)


def test_the_same_seed_gives_the_same_moves_and_another_gives_others():
    one, other, third = (drive(racing(seed), Toy()) for seed in (1, 1, 2))
    assert one == other
    assert one != third


@pytest.mark.parametrize("concurrency", [1, 4])
def test_told_the_same_answers_again_it_asks_the_same_moves(concurrency):
    search = racing(3, concurrency=concurrency)
    told = drive(search, Toy(3), order=Random(0))
    again, asked = racing(3, concurrency=concurrency), []
    for move, answer in told:
        while (new := again.ask()) is not None:
            asked.append(new)
        assert move in asked
        again.tell(move, answer)
    assert again.outcome == search.outcome
    assert sorted(asked, key=lambda move: move.number) == sorted((move for move, _ in told), key=lambda move: move.number)


class Settled(Toy):
    """A world whose answer depends on the question alone, and not on when it is asked."""

    def answer(self, move):
        self.chance = Random(f"{move.number}")
        return super().answer(move)

    def _draw(self, move, task):
        return msgspec.structs.replace(super()._draw(move, task), rollout_id=f"ro-{move.number}-{task}")


def played(order, **options):
    search = racing(3, max_rollouts=400, **options)
    told = drive(search, Settled(), order=order and Random(order))
    return search.outcome, sorted(told, key=lambda pair: pair[0].number)


def test_a_deterministic_search_does_not_depend_on_how_long_each_answer_takes():
    straight = played(None, concurrency=4, deterministic=True)
    assert all(played(order, concurrency=4, deterministic=True) == straight for order in range(1, 9))
    assert played(1, concurrency=4) != played(None, concurrency=4)


@pytest.mark.parametrize("siblings", [1, 3])
def test_one_parent_at_a_time_is_deterministic_anyway(siblings):
    straight = played(None, concurrency=1, siblings=siblings)
    assert all(played(order, concurrency=1, siblings=siblings) == straight for order in range(1, 9))


@pytest.mark.parametrize("seed", range(12))
def test_the_budget_is_never_exceeded_and_every_move_is_asked_once(seed):
    chance = Random(seed)
    options = {
        "max_rollouts": chance.randint(16, 250),
        "concurrency": chance.choice([None, 1, 2, 5]),
        "siblings": chance.randint(1, 3),
        "screen_tasks": chance.randint(1, 8),
        "finalists": chance.randint(1, 5),
        "reserve": chance.choice([0.0, 0.2, 0.6]),
        "redraw_parent": chance.random() < 0.5,
    }
    search, world = racing(seed, **options), Toy(seed)
    told = drive(search, world, order=chance)
    assert world.plays == search.outcome.spent <= options["max_rollouts"]
    numbers = [move.number for move, _ in told]
    assert len(numbers) == len(set(numbers))
    assert search.outcome.cost == 0.5 * search.outcome.spent


def test_a_null_world_keeps_its_seed():
    harmed = 0
    for seed in range(50):
        search, world = racing(seed, max_rollouts=120), Toy(seed, base=0.6, hit=0.0)
        drive(search, world)
        harmed += world.true(search.outcome.winner.texts) < 0.6
    assert harmed <= 1


def test_where_all_is_perfect_it_stops_after_the_probe():
    search = racing()
    told = drive(search, Toy(base=1.0))
    assert search.outcome.decision == "nothing_to_gain"
    assert search.outcome.winner.candidate_id == SEED
    assert [len(move.tasks) for move in evaluations(told, "probe")] == [16, 16]
    assert len({task for move, _ in told for task in move.tasks}) == 16


def test_the_probe_repeats_its_tasks_for_the_noise_floor():
    search = racing()
    told = drive(search, Toy())
    tasks = evaluations(told, "probe")[0].tasks
    assert tasks[:8] == tasks[8:]
    assert 0.3 < search.outcome.noise_floor < 0.7


def test_with_no_reward_at_all_it_stops_and_says_so():
    search = racing()
    drive(search, Toy(rewards=lambda texts, task: None))
    outcome = search.outcome
    assert (outcome.decision, outcome.spent, outcome.estimates) == ("no_evidence", 16, ())
    assert "no rollout of the probe brought a reward" in outcome.reason


def test_missing_and_odd_rewards_are_paid_for_and_it_goes_on():
    chance = Random(4)
    world = Toy(hit=0.9)
    world.rewards = lambda texts, task: chance.choice(
        [None, math.nan, float(chance.random() < world.true(texts)), 1.0 * (world.true(texts) > 0.7)]
    )
    search = racing(max_rollouts=200)
    drive(search, world)
    assert search.outcome.spent <= 200
    assert search.evidence.missing > 50
    assert math.isfinite(search.outcome.gain)


def test_when_rewards_cease_the_search_ends():
    world = Toy()
    world.rewards = lambda texts, task: None if world.plays > 30 else 0.5
    search = racing(max_rollouts=2000, patience=5)
    drive(search, world)
    assert search.outcome.spent < 800
    assert search.outcome.winner.candidate_id == SEED
    assert "5 evaluations in a row brought no reward" in search.outcome.reason


def test_a_proposer_that_brings_nothing_ends_the_search():
    search = racing(patience=7)
    told = drive(search, Toy(propose=lambda move, chance: Proposal(text=None, error="refused")))
    assert sum(isinstance(move, Propose) for move, _ in told) == 7
    assert search.outcome.winner.candidate_id == SEED
    assert "7 proposals in a row brought no usable text" in search.outcome.reason


def test_a_refused_text_is_mended_once_and_costs_no_rollout():
    def propose(move, chance):
        if isinstance(move, Repair):
            return Proposal(text="Mended {question}.", hypothesis="mended")
        return Proposal(text="No placeholder.", hypothesis="short")

    search = racing(patience=3)
    told = drive(search, Toy(propose=propose))
    repair = next(move for move, _ in told if isinstance(move, Repair))
    assert repair.text == "No placeholder."
    assert "{question} is missing" in repair.reason
    assert search.candidates["c1"].texts == {"prompt": "Mended {question}."}
    # The second mended text is the same as the first: it is refused, and the idea counts as rejected.
    assert len(search.candidates) == 2
    assert "tried before" in search.rejected[-1].reason
    assert all("{question}" in move.candidate.texts["prompt"] for move, _ in told if isinstance(move, Evaluate))


def test_without_repairs_a_refused_idea_is_rejected_at_once():
    search = racing(patience=2, guards=GuardOptions(repairs=0))
    told = drive(search, Toy(propose=lambda move, chance: Proposal(text="No placeholder.", hypothesis="short")))
    assert not [move for move, _ in told if isinstance(move, Repair)]
    assert [one.hypothesis for one in search.rejected] == ["short", "short"]


def test_rejected_ideas_are_told_to_the_proposer():
    told = drive(racing(rejected_shown=2), Toy(hit=0.0))
    shown = [move.rejected for move, _ in told if isinstance(move, Propose)]
    assert shown[0] == ()
    assert all(len(one) <= 2 for one in shown)
    assert any("the reward changed by" in idea.reason for one in shown for idea in one)


def test_a_copy_of_the_records_shown_is_refused():
    record = "one two three four five six seven eight nine ten eleven twelve thirteen"
    asked = []

    def records_text(rollouts):
        asked.append(rollouts)
        return [record]

    search = racing(patience=2, records_text=records_text, guards=GuardOptions(repairs=0))
    told = drive(search, Toy(propose=lambda move, chance: Proposal(text=f"{record} {{question}}", hypothesis="copied")))
    move = next(move for move, _ in told if isinstance(move, Propose))
    assert asked[0] == (*move.failures, *move.successes)
    assert "copied from a training example" in search.rejected[0].reason


def test_proposals_are_about_failures_of_their_parent_and_one_success():
    told = drive(racing(), Toy())
    rewards = {}
    for move, answer in told:
        if isinstance(move, Evaluate):
            rewards |= {draw.rollout_id: (move.candidate.candidate_id, draw.reward) for draw in answer}
        if isinstance(move, Propose):
            name = move.parent.candidate_id
            assert 1 <= len(move.failures) <= 4
            assert all(rewards[one] == (name, 0.0) for one in move.failures)
            assert len(move.successes) <= 1
            assert all(rewards[one] == (name, 1.0) for one in move.successes)


def test_failures_that_were_not_shown_come_first():
    told = drive(racing(), Toy(hit=0.0, base=0.3, worth=0.3))
    of_seed = [move.failures for move, _ in told if isinstance(move, Propose) and move.parent.candidate_id == SEED]
    assert not set(of_seed[0]) & set(of_seed[1])


def test_depth_is_not_limited():
    search = racing(max_rollouts=600)
    drive(search, Toy(hit=0.9, worth=0.05, base=0.1))
    depth, name = 0, search.outcome.winner.candidate_id
    while (name := search.candidates[name].parent_id) is not None:
        depth += 1
    assert depth >= 5


def test_each_prompt_of_several_is_changed_in_turn():
    texts = {"writer": "Write {question}.", "critic": "Judge {question}."}
    search, world = racing(texts=texts), Toy()
    told = drive(search, world)
    asked = [move.component for move, _ in told if isinstance(move, Propose)]
    assert abs(asked.count("writer") - asked.count("critic")) <= 1
    for child in search.candidates.values():
        if child.parent_id is not None:
            parent = search.candidates[child.parent_id]
            assert [name for name in texts if child.texts[name] != parent.texts[name]] == [child.component]


def test_finalists_and_seed_are_drawn_on_the_same_validation_tasks():
    told = drive(racing(max_rollouts=400, finalists=3), Toy())
    finals = evaluations(told, "final")
    assert {move.split for move in finals} == {"val"}
    rounds = {}
    for move in finals:
        rounds.setdefault(move.tasks, []).append(move.candidate.candidate_id)
    assert [len(names) for names in rounds.values()] == [4, 2]
    assert all(names[0] == SEED for names in rounds.values())


def test_without_noise_no_validation_task_is_drawn_twice():
    world = Toy(hit=0.9)
    world.rewards = lambda texts, task: world.true(texts)
    search = racing(max_rollouts=600)
    told = drive(search, world)
    drawn = [task for move in evaluations(told, "final") if move.candidate.candidate_id == SEED for task in move.tasks]
    assert len(drawn) == len(set(drawn)) == len(VAL)
    assert search.outcome.decision == "improved"
    assert search.outcome.noise_floor == 0.0


def test_it_ends_early_when_the_best_candidate_never_fails():
    world = Toy(hit=1.0, base=0.5, worth=0.25)
    search = racing(max_rollouts=3000)
    drive(search, world)
    assert search.outcome.spent < 2000
    assert "were perfect" in search.outcome.reason
    assert search.outcome.decision == "improved"


def test_hurried_it_goes_to_the_final_with_the_rollouts_that_are_left():
    search, world, open_moves = racing(max_rollouts=2000, concurrency=3), Toy(hit=1.0), []
    while not search.done:
        while (move := search.ask()) is not None:
            open_moves.append(move)
        if 150 < world.plays < 156 or (world.plays > 155 and "hurried" not in vars()):
            hurried, under_way = world.plays, sum(len(move.tasks) for move in open_moves if isinstance(move, Evaluate))
            search.hurry("`max_seconds` is spent", 60)
        move = open_moves.pop(0)
        search.tell(move, world.answer(move))
    assert hurried + under_way < search.outcome.spent <= hurried + under_way + 60 + 3 * 5
    assert search.outcome.decision == "improved"
    assert "ended early: `max_seconds` is spent" in search.outcome.reason


def test_as_many_expansions_run_at_once_as_asked():
    search = racing(max_rollouts=900, concurrency=3)
    first = search.ask()
    assert search.ask() is None
    search.tell(first, Toy().answer(first))
    asked = [search.ask() for _ in range(4)]
    assert [isinstance(move, Propose) for move in asked] == [True, True, True, False]
    assert asked[3] is None


def test_a_budget_for_the_probe_alone_leaves_the_seed():
    search = racing(max_rollouts=16)
    drive(search, Toy())
    assert search.outcome.decision == "no_significant_improvement"
    assert search.outcome.winner.candidate_id == SEED
    assert math.isnan(search.outcome.p_better)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rollouts": 10}, "the probe alone takes 16"),
        ({"screen_tasks": 0}, "`screen_tasks` must be at least 1"),
        ({"concurrency": 0}, "`concurrency` must be at least 1, or None"),
        ({"confidence": 1.0}, "`confidence` must be at least 0 and less than 1"),
        ({"guards": GuardOptions(required={"other": ("x",)})}, r"do not exist: \['other'\]; there are \['prompt'\]"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        racing(**options)


def test_no_prompt_no_tasks_and_tasks_named_twice_are_refused():
    with pytest.raises(ValueError, match="no prompt"):
        Racing({}, TRAIN, VAL)
    with pytest.raises(ValueError, match="`val_tasks` is empty"):
        Racing(SEED_TEXTS, TRAIN, [])
    with pytest.raises(ValueError, match="`train_tasks` names a task twice"):
        Racing(SEED_TEXTS, ["a", "a"], VAL)


def test_a_move_is_told_once_and_with_its_own_kind_of_answer():
    search, world = racing(), Toy()
    move = search.ask()
    answer = world.answer(move)
    with pytest.raises(ValueError, match="one `Draw` for each"):
        search.tell(move, answer[:-1])
    with pytest.raises(ValueError, match="one `Draw` for each"):
        search.tell(move, Proposal(text="x"))
    search.tell(move, answer)
    with pytest.raises(ValueError, match="move 0 is not open"):
        search.tell(move, answer)
    proposal = search.ask()
    with pytest.raises(ValueError, match="must be a `Proposal`"):
        search.tell(proposal, [Draw(task_id="t", reward=1.0)])
