"""The generated tasks are deterministic, honest about what is held out, and in Spider's shape."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from data import Splits, Task, load_spider, make_databases, make_splits, split_of_value
from evaluate import evaluate_query
from questions import KINDS


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return make_splits(tmp_path_factory.mktemp("databases"))


def test_the_same_seed_makes_the_same_databases(tmp_path: Path) -> None:
    def dump(path: Path) -> list[str]:
        connection = sqlite3.connect(path)
        lines = list(connection.iterdump())
        connection.close()
        return lines

    first, again, other = (make_databases(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert [dump(path) for path in first] == [dump(path) for path in again]
    assert [dump(path) for path in first] != [dump(path) for path in other]


def test_the_same_seed_draws_the_same_tasks(tmp_path: Path, splits: Splits) -> None:
    again = make_splits(tmp_path)
    assert [[(task["question"], task["query"]) for task in part] for part in again] == [
        [(task["question"], task["query"]) for task in part] for part in splits
    ]


def test_the_held_out_set_is_large_and_holds_every_kind(splits: Splits) -> None:
    assert 200 <= len(splits.test) <= 300
    assert {task["kind"] for task in splits.test} == {task["kind"] for task in splits.train} == {kind.name for kind in KINDS}
    assert all(len({task["question"] for task in part}) == len(part) for part in splits)


HELD_OUT_BY_VALUE = {kind.name for kind in KINDS if kind.holds_values_out}


def _values(tasks: list[Task]) -> set[str]:
    return {task["value"] for task in tasks if task["kind"] in HELD_OUT_BY_VALUE}


@pytest.mark.parametrize(("one", "other"), [("train", "test"), ("train", "val"), ("val", "test")])
def test_no_two_splits_share_a_combination_or_a_value(splits: Splits, one: str, other: str) -> None:
    left, right = getattr(splits, one), getattr(splits, other)
    assert not {task["combination"] for task in left} & {task["combination"] for task in right}
    assert not _values(left) & _values(right)


def test_no_held_out_value_stands_in_a_training_question(splits: Splits) -> None:
    words = {word for task in splits.train for word in re.findall(r"\w+", task["question"])}
    assert not words & _values(splits.test)


def test_held_out_numbers_differ_from_training_numbers_in_no_digit(splits: Splits) -> None:
    def last_digits(part: str) -> set[str]:
        return {str(number)[-1] for number in range(10, 100) if split_of_value(number) == part}

    assert last_digits("test") == last_digits("train") == set("0123456789")
    assert {value[-1] for value in _values(splits.test) if value.isdigit()} == set("0123456789")


def test_every_reference_query_earns_the_reward(splits: Splits) -> None:
    for task in (task for part in splits for task in part):
        assert evaluate_query(task["query"], task["query"], task["db_path"]) == 1.0


def _make_spider(folder: Path, *, databases: tuple[str, ...] = ("pets",)) -> list[dict[str, str]]:
    records = [{"db_id": "pets", "question": "How many pets?", "query": "SELECT count(*) FROM pet", "other": "field"}]
    (folder / "dev.json").write_text(json.dumps(records))
    (folder / "train_spider.json").write_text(json.dumps(records))
    (folder / "train_others.json").write_text(json.dumps(records))
    for db_id in databases:
        (folder / "database" / db_id).mkdir(parents=True)
        connection = sqlite3.connect(folder / "database" / db_id / f"{db_id}.sqlite")
        connection.execute("CREATE TABLE pet(id)")
        connection.close()
    return records


def test_spider_is_read_from_its_published_json(tmp_path: Path) -> None:
    _make_spider(tmp_path)
    (task,) = load_spider(tmp_path)
    assert (task["question"], task["query"], task["db_id"]) == ("How many pets?", "SELECT count(*) FROM pet", "pets")
    assert evaluate_query("SELECT 0", task["query"], task["db_path"]) == 1.0
    assert len(load_spider(tmp_path, "train")) == 2
    assert len(load_spider(tmp_path, "train", limit=1)) == 1


def test_spider_is_read_from_parquet_where_there_is_one(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    records = _make_spider(tmp_path)
    pandas.DataFrame(records * 3).to_parquet(tmp_path / "test_dev.parquet")
    assert len(load_spider(tmp_path)) == 3


def test_a_missing_spider_says_what_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    tried = r"looked for dev\.parquet, test_dev_500\.parquet, test_dev\.parquet, dev\.json; found no such folder.*Download"
    with pytest.raises(FileNotFoundError, match=tried):
        load_spider(tmp_path / "nowhere")
    (tmp_path / "tables.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"looked for train_spider\.parquet.*found tables\.json"):
        load_spider(tmp_path, "train")


def test_a_spider_without_its_databases_names_the_first_missing_file(tmp_path: Path) -> None:
    _make_spider(tmp_path, databases=())
    with pytest.raises(FileNotFoundError, match=r"1 databases.*pets\.sqlite.*Unpack"):
        load_spider(tmp_path)
