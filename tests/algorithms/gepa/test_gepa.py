"""GEPA from end to end: gepa's search, our rollouts, and a gate after it."""

import json
import random
import threading

import pytest
from apo_agent import CAPITALS, MARK, REMEDIES, SEED_PROMPT, TEST, TRAIN, VAL, obey, repeat

import agl
from agl.errors import ConfigError
from agl.testing import ScriptedServer
from agl_apo.moves import SEED, Draw, Evaluate, Proposal
from agl_apo.search import GuardOptions
from agl_apo.testing import scripted
from agl_gepa.options import GepaOptions, GepaSettings
from agl_gepa.search import Gepa


def test_it_finds_better_prompts_within_its_budget_and_tests_the_winner_once(tmp_path):
    with ScriptedServer(obey) as model, ScriptedServer(scripted(REMEDIES)) as critic:
        algorithm = agl.GEPA(endpoint=critic.base_url(), model="critic", max_rollouts=100)
        resources = {"main_llm": model.llm(), "prompt_template": agl.PromptTemplate(template=SEED_PROMPT)}
        trainer = agl.Trainer(algorithm=algorithm, initial_resources=resources, store=tmp_path / "s.sqlite", quiet=True)
        result = trainer.fit(repeat, TRAIN, VAL, test_dataset=TEST)
        told = json.loads((result.directory / "result.json").read_text())
        best = result.resources["prompt_template"].template
        assert [rule in best for rule in (CAPITALS, MARK, "{word}")] == [True, True, True]
        assert algorithm.get_best_prompt().template == best
        assert told["decision"] == "improved"
        assert len(model.requests) == told["spent"]["rollouts"] + 2 * len(TEST)
        assert told["spent"]["rollouts"] <= 100
        assert told["test"]["winner"]["mean"] == 1.0
    assert not [thread for thread in threading.enumerate() if thread.name == "agl-gepa"]


def search(val=6, max_rollouts=90, **options):
    tasks = [f"t{n}" for n in range(9)], [f"v{n}" for n in range(val)]
    return Gepa({"p": "seed"}, *tasks, GepaOptions(**options), GuardOptions(copy_words=0), max_rollouts=max_rollouts, seed=1)


def play(made, reward, write=lambda number: f"text {number}"):
    """Answer a search's moves; gives them."""
    moves = []
    while not made.done:
        move = made.ask()
        if move is None:
            continue
        moves.append(move)
        if isinstance(move, Evaluate):
            draws = [reward(move.candidate.texts["p"], task) for task in move.tasks]
            made.tell(
                move,
                [
                    Draw(task_id=task, reward=value, rollout_id=f"{move.number}-{task}")
                    for task, value in zip(move.tasks, draws, strict=True)
                ],
            )
        else:
            made.tell(move, Proposal(text=write(move.number), hypothesis="h"))
    made.close()
    return moves


@pytest.mark.parametrize("budget", [40, 90, 333])
def test_the_budget_is_never_exceeded_and_a_share_is_kept_for_the_gate(budget):
    chance = random.Random(0)
    made = search(max_rollouts=budget)
    moves = play(made, lambda text, task: float(chance.random() < 0.5))
    ran = [move for move in moves if isinstance(move, Evaluate)]
    assert sum(len(move.tasks) for move in ran) == made.outcome.spent <= budget
    assert sum(len(move.tasks) for move in ran if move.stage != "final") <= 0.7 * budget


def test_luck_does_not_pass_the_gate():
    """Every text is equally good: gepa's best has been lucky, and fresh rollouts show it."""
    passed = 0
    for seed in range(40):
        chance = random.Random(seed)
        made = search(max_rollouts=120, confidence=0.95)
        play(made, lambda text, task, chance=chance: float(chance.random() < 0.5))
        passed += made.outcome.decision == "improved"
    assert passed <= 5


def test_a_text_that_is_better_wins():
    made = search()
    play(made, lambda text, task: 1.0 if "6" in text else 0.2)
    assert made.outcome.decision == "improved"
    assert "6" in made.outcome.winner.texts["p"]
    assert made.outcome.gain == pytest.approx(0.8)
    assert made.candidates[made.outcome.winner.candidate_id].parent_id == SEED


def test_the_same_answers_lead_to_the_same_moves():
    def moves():
        chance = random.Random(5)
        return play(search(), lambda text, task: float(chance.random() < 0.4))

    assert moves() == moves()


def test_a_seed_without_fault_ends_it_after_some_patience():
    made = search(patience=5)
    moves = play(made, lambda text, task: 1.0)
    assert made.outcome.decision == "no_significant_improvement"
    assert made.outcome.reason == "gepa found no candidate that is better than the seed"
    assert len(moves) < 20


def test_texts_that_a_guard_refuses_cost_no_rollout():
    made = Gepa({"p": "Say {x}"}, ["t0", "t1", "t2"], ["v0"], GepaOptions(patience=3), GuardOptions(copy_words=0), max_rollouts=60)
    moves = play(made, lambda text, task: 0.0, write=lambda number: "Say nothing")
    assert {move.candidate.candidate_id for move in moves if isinstance(move, Evaluate)} == {SEED}
    assert "{x}" in made.rejected[0].reason


def test_when_it_is_hurried_it_compares_what_there_is():
    made, seen = search(max_rollouts=400), []

    def reward(text, task):
        seen.append(task)
        if len(seen) == 60:
            made.hurry("time is up", 20)
        return 0.9 if text != "seed" else 0.1

    play(made, reward)
    assert made.outcome.spent <= 60 + 20 + 10
    assert "(time is up)" in made.outcome.reason


def test_a_search_that_is_given_up_leaves_no_thread():
    made = search()
    assert made.ask() is not None
    made.close()
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "agl-gepa"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "beam"}, r"GEPA has no option \['strategy'\]; it has \['prompts', 'max_rollouts'"),
        ({"candidate_selection_strategy": "best"}, r"`candidate_selection_strategy` must be one of \['pareto'"),
        ({"reserve": 1.5}, "`reserve` between 0 and 1"),
        ({"max_merge_invocations": 3}, r"\['max_merge_invocations'\] have no effect beside `use_merge=False`"),
    ],
)
def test_what_cannot_work_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        GepaSettings(options)


def test_a_budget_that_is_too_small_for_gepa_says_what_it_takes():
    with pytest.raises(ConfigError, match=r"GEPA cannot begin: gepa scores every candidate on all validation tasks: 21 of 30 rollouts"):
        GepaSettings({"max_rollouts": 30}).search({"p": "x"}, ["t"], [f"v{n}" for n in range(30)], seed=0, records=list)
