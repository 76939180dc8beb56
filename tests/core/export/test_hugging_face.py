"""The real `datasets` reads what is written, offline."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from agl.export import export_run, import_file

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="`datasets` is not installed (it is in the group dev)")
LOAD = """
import json, sys
from datasets import load_dataset
kind, path, to_disk = sys.argv[1:]
found = load_dataset(path) if kind == "folder" else load_dataset(kind, data_files=path)
found["train"].save_to_disk(to_disk)
print(json.dumps({name: list(split) for name, split in found.items()}))
"""


@pytest.fixture
def load(tmp_path):
    """The rows that `datasets` reads, by split; it also saves the first split to `disk`."""

    def load(kind, path):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", LOAD, kind, str(path), str(tmp_path / "disk")]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return load


def test_a_folder_is_a_dataset_with_its_splits_and_back(whole_run, tmp_path, load):
    export_run(whole_run, "run-1", "hf", tmp_path / "set")
    found = load("folder", tmp_path / "set")
    assert {name: len(rows) for name, rows in found.items()} == {"train": 10, "validation": 2}
    assert found["train"][1]["response_ids"] == [21, 22]
    assert json.loads(found["train"][1]["answer"])["content"] == "one"
    done = import_file(tmp_path / "other.sqlite", tmp_path / "disk")
    assert (done.rollouts, done.answers) == (4, 10)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_messages_of_different_forms_are_read_as_they_are(maker, tmp_path, load, suffix):
    question, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}
    maker.rollout(maker.call([question], "ok", tools=None), reward=1.0)
    maker.talk("one", 1.0, group="g2")
    other = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}
    maker.rollout(maker.call([question], {"role": "assistant", "content": None, "tool_calls": [other]}), reward=1.0, group="g3")
    out = tmp_path / f"x.{suffix}"
    export_run(maker.write(tmp_path / "store.sqlite"), "run-1", "trl-sft", out)
    rows = load("json" if suffix == "jsonl" else suffix, out)["train"]
    assert rows[0] == {"messages": [question, answer], "tools": "null"}
    assert rows[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"sql": "select 1"}
    assert rows[2]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"n": 1}
