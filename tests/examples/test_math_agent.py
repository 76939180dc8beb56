"""The math agent's problems, calculator, reward and the conversations that its model was made from."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "math_agent"
sys.path.insert(0, str(EXAMPLE))

from calculator import calculate  # noqa: E402
from habits import HABITS, RIGHT, SHAPES, STOPS_EARLY, converse, make_corpus  # noqa: E402
from problems import BY_NAME, KINDS, Problem, draw_problem, judge, make_splits, split_of_number, templates  # noqa: E402


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=3)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 * 14 + 9", "51"),
        (" 7/2 ", "3.5"),
        ("-(2 - 5) % 2", "1"),
        ("3 x 14", "Error: not arithmetic"),
        ("2 ** 9", "Error: not arithmetic"),
        ("__import__('os')", "Error: not arithmetic"),
        ("1 / 0", "Error: division by zero"),
        ("True + 1", "Error: not arithmetic"),
        ("", "Error: not arithmetic"),
        ("1+" * 50 + "1", "Error: too long"),
        ("9" * 79 + ".0*", "Error: too long"),
    ],
)
def test_the_calculator_computes_arithmetic_and_nothing_else(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("The answer is 51", 1.0),
        ("so the answer is 51.0.", 1.0),
        ("The answer is 42. No: the answer is 51", 1.0),
        ("The answer is 51, no: the answer is 42", 0.0),
        ("51", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_the_reward_reads_the_last_answer(text, reward):
    assert judge({"answer": 51}, text) == reward


def test_the_same_seed_gives_the_same_tasks_and_another_gives_others(splits):
    assert make_splits(seed=3) == splits
    assert make_splits(seed=4).test != splits.test


def test_the_splits_are_as_large_as_asked_and_even_over_kinds(splits):
    assert [len(tasks) for tasks in splits] == [480, 96, 192]
    for tasks in splits:
        shares = Counter(task["kind"] for task in tasks)
        assert set(shares) == set(BY_NAME)
        assert max(shares.values()) - min(shares.values()) <= 0.2 * len(tasks) / len(KINDS)


def test_no_template_and_no_held_out_number_is_in_two_splits(splits):
    used = [{(task["kind"], task["template"]) for task in tasks} for tasks in splits]
    assert not used[0] & used[1] | used[0] & used[2] | used[1] & used[2]
    for tasks, split in zip(splits, ("train", "val", "test"), strict=True):
        numbers = {int(word.strip(",.?")) for task in tasks for word in task["question"].split() if word.strip(",.?").isdigit()}
        assert {split_of_number(number) for number in numbers} <= {split, None}


def test_every_problem_is_solved_by_the_steps_of_its_kind():
    rng = random.Random(0)
    for kind in KINDS:
        problem = draw_problem(kind, templates(kind)["train"][0], "train", rng)
        result = ""
        for number in range(len(kind.steps)):
            result = calculate(problem.step(number, result))
        assert judge({"answer": problem.answer()}, f"The answer is {result}") == 1.0


def test_the_shapes_of_all_four_frameworks_are_kept():
    assert sorted(SHAPES) == ["autogen", "crewai", "langgraph", "openai_agents"]


def test_the_corpus_knows_nothing_of_the_held_out_templates(splits):
    held_out = {task["question"] for task in (*splits.val, *splits.test)}
    seen = {turn.messages[1]["content"] for conversation in make_corpus(600, seed=5) for turn in conversation}
    assert not {question for question in held_out if any(question in content for content in seen)}


@pytest.mark.parametrize("framework", ["autogen", "crewai", "langgraph", "openai_agents"])
def test_every_kind_has_a_right_habit_that_earns_the_reward(framework):
    for kind in KINDS:
        problem = _problem(kind.name)
        scores = [_score(framework, problem, random.Random(seed)) for seed in range(60)]
        assert 0.0 < sum(scores) / len(scores) < 1.0, kind.name
        assert any(habit.weight == RIGHT.weight or habit.weight >= 0.8 for habit in HABITS[kind.name])
    assert set(STOPS_EARLY) == {kind.name for kind in KINDS if len(kind.steps) > 1}


def _problem(kind: str) -> Problem:
    return draw_problem(BY_NAME[kind], templates(BY_NAME[kind])["train"][0], "train", random.Random(1))


def _score(framework: str, problem: Problem, rng: random.Random) -> float:
    *_, last = converse(framework, problem, rng)
    return judge({"answer": problem.answer()}, last.reply)
