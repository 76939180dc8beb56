"""Datasets become tasks, or are refused before anything starts."""

import math

import numpy as np
import pandas as pd
import pytest

from agl.errors import ConfigError
from agl.tasks import Mode, make_tasks


def tasks(*rows):
    return make_tasks(list(rows), Mode.TRAIN, "train_dataset")


def test_a_task_keeps_the_users_dict_and_mode():
    (task,) = make_tasks([{"q": "1+1", "n": 2}], Mode.VAL, "val_dataset")
    assert (task.data, task.mode) == ({"q": "1+1", "n": 2}, Mode.VAL)


@pytest.mark.parametrize("name", ["id", "task_id"])
def test_the_datasets_own_id_is_taken(name):
    assert [task.task_id for task in tasks({name: 7, "q": "a"}, {name: "x", "q": "a"})] == ["7", "x"]


def test_an_id_that_is_none_counts_as_missing():
    assert tasks({"id": None, "task_id": "t"})[0].task_id == "t"


def test_without_an_id_the_content_decides_and_not_the_order_of_its_fields():
    first, same, other = tasks({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3})
    assert first.task_id == same.task_id != other.task_id


@pytest.mark.parametrize("name", ["id", "task_id"])
def test_two_rows_with_one_id_are_refused_by_both_positions(name):
    with pytest.raises(ConfigError, match=r"train_dataset\[2\].*`7`.*train_dataset\[0\]"):
        tasks({name: 7}, {name: 8}, {name: 7})


def test_equal_rows_without_an_id_are_one_task_twice():
    assert len(tasks({"q": "a"}, {"q": "a"})) == 2


def test_numpy_scalars_and_arrays_become_plain_values():
    (task,) = tasks({"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "v": np.arange(2)})
    assert task.data == {"i": 3, "f": 0.5, "b": True, "v": [0, 1]}


def test_records_of_a_pandas_frame_are_a_dataset_and_missing_values_are_none():
    frame = pd.DataFrame({"q": ["a", "b"], "n": [1.0, math.nan]})
    assert [task.data for task in tasks(*frame.to_dict("records"))] == [{"q": "a", "n": 1.0}, {"q": "b", "n": None}]


def test_a_generator_is_a_dataset():
    assert len(make_tasks(({"i": i} for i in range(3)), Mode.TRAIN, "train_dataset")) == 3


def test_a_data_frame_is_refused_with_what_to_call():
    with pytest.raises(ConfigError, match=r"to_dict\('records'\)"):
        make_tasks(pd.DataFrame({"q": ["a"]}), Mode.TRAIN, "train_dataset")


@pytest.mark.parametrize("given", ["text", b"bytes", {"q": "a"}, 3, None])
def test_what_is_no_sequence_of_dicts_is_refused_by_its_type(given):
    with pytest.raises(ConfigError, match=f"sequence of dicts, given was {type(given).__name__}"):
        make_tasks(given, Mode.TRAIN, "train_dataset")


def test_an_empty_dataset_is_refused():
    with pytest.raises(ConfigError, match="is empty"):
        tasks()


def test_a_row_that_is_no_dict_is_refused_by_its_position():
    with pytest.raises(ConfigError, match=r"`train_dataset\[1\]` must be a dict, given was list"):
        tasks({"q": "a"}, ["q"])


def circle():
    row = {}
    row["self"] = row
    return row


@pytest.mark.parametrize("row", [{"f": object()}, {(1, 2): "key"}, {"s": "\ud800"}, circle()])
def test_what_json_cannot_hold_is_refused_by_its_position(row):
    with pytest.raises(ConfigError, match=r"`train_dataset\[0\]` cannot be stored as JSON"):
        tasks(row)
