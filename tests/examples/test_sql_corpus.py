"""The corpus is sloppy in dialect and comparison only, and keeps every held-out thing out."""

import re
from pathlib import Path

import pytest

from corpus import HABITS, RIGHT, Example, judge, make_corpus
from data import Splits, make_splits, split_of_value
from evaluate import evaluate_query
from questions import KINDS
from sql_agent import CHECK_PROMPT, REWRITE_PROMPT, WRITE_PROMPT


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("databases")


@pytest.fixture(scope="module")
def splits(databases: Path) -> Splits:
    return make_splits(databases)


@pytest.fixture(scope="module")
def corpus(databases: Path, splits: Splits) -> list[Example]:
    return make_corpus(databases, 3_000)


def _asked(example: Example) -> str:
    return re.findall(r"Question: (.*)", str(example.messages[-1].content))[0]


def test_the_same_seed_draws_the_same_corpus(databases: Path, corpus: list[Example]) -> None:
    assert make_corpus(databases, 200) == corpus[:200]


def test_no_held_out_question_or_value_is_in_the_corpus(splits: Splits, corpus: list[Example]) -> None:
    questions = {_asked(example) for example in corpus}
    assert not questions & {task["question"] for task in splits.test + splits.val}
    numbers = {word for question in questions for word in re.findall(r"\d+", question)}
    assert {split_of_value(number) for number in numbers} == {"train"}
    names = {word for question in questions for word in re.findall(r"\w+", question)}
    assert not names & {task["value"] for task in splits.test + splits.val if not task["value"].isdigit()} - {""}


def test_every_kind_has_a_right_form_with_a_share_to_grow_from() -> None:
    for kind in KINDS:
        habits = HABITS[kind.name]
        (right,) = [habit for habit in habits if habit.query is RIGHT]
        assert right.write / sum(habit.write for habit in habits) >= 0.125
        assert right.rewrite / sum(habit.rewrite for habit in habits) >= 0.125


def test_most_first_queries_are_wrong_and_a_good_share_is_right(databases: Path, splits: Splits, corpus: list[Example]) -> None:
    references = {task["question"]: task for task in splits.train}
    written = [
        (references[_asked(example)], example.reply)
        for example in corpus
        if example.node == "write_query" and _asked(example) in references
    ]
    scores = [evaluate_query(reply, task["query"], task["db_path"]) for task, reply in written]
    assert 0.2 < sum(scores) / len(scores) < 0.5


def test_the_corpus_holds_the_prompts_of_all_three_nodes(corpus: list[Example]) -> None:
    prompts = {"write_query": WRITE_PROMPT, "check_query": CHECK_PROMPT, "rewrite_query": REWRITE_PROMPT}
    assert {(example.node, example.messages[0].content) for example in corpus} == set(prompts.items())


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ("Error: no such function: YEAR", "INCORRECT: error"),
        ("no rows", "INCORRECT: empty"),
        ("NULL", "INCORRECT: empty"),
        ("0", "CORRECT"),
        ("Ann; Bob", "CORRECT"),
    ],
)
def test_the_check_looks_at_the_result(result: str, verdict: str) -> None:
    assert judge(result) == verdict
