"""The SQL agent, its embedded model and GRPO, end to end and for real, on few tasks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import agl

EXAMPLE = Path(__file__).parents[2] / "examples" / "sql_agent"


@pytest.fixture(scope="module")
def script():
    import train_sql_agent

    return train_sql_agent


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    from data import make_splits

    return make_splits(tmp_path_factory.mktemp("databases"), seed=0, train=24, val=8, test=24)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(folder, **options):
    settings = {"steps": 1, "batch_size": 8, "group_size": 8, "lr": 3e-4, "max_tokens": 64, **options}
    return agl.Trainer(
        algorithm=agl.GRPO(EXAMPLE / "model", **settings),
        n_runners=16,
        adapter={"agent_match": "write|rewrite"},
        store=folder / "store.sqlite",
        quiet=True,
    )


@pytest.fixture(scope="module")
def fitted(script, tasks, tmp_path_factory):
    """Every spelling trained for one step on the same data, by name."""
    found = {}
    for name, agent in script.SPELLINGS.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = trainer(folder).fit(agent, train_dataset=tasks.train, test_dataset=tasks.test)
    return found


def test_the_three_spellings_do_the_same(fitted):
    accuracy = {name: result.before.mean for name, result in fitted.items()}
    queries = {name: [sql(item) for item in result.before.results] for name, result in fitted.items()}
    assert queries["graph"] == queries["function"] == queries["class"]
    assert accuracy["graph"] == accuracy["function"] == accuracy["class"]
    assert 0.2 <= accuracy["graph"] <= 0.7


def sql(result):
    """The last query that the agent wrote, from the recorded calls: the class and function forms return only a reward."""
    calls = [span.attributes["agl.call"] for span in result.spans if span.kind == "llm" and span.role != "check_query"]
    return calls[-1]["response"]["choices"][0]["message"]["content"]


@pytest.mark.parametrize("spelling", ["graph", "class", "function"])
def test_only_write_and_rewrite_are_learned_from(fitted, spelling):
    calls = [call for item in fitted[spelling].after.results for call in item.transitions]
    assert {call.role for call in calls} >= {"write_query", "check_query"}
    assert {call.role for call in calls if call.trainable} <= {"write_query", "rewrite_query"}
    assert all("does not match" in call.untrained for call in calls if call.role == "check_query")
    assert all(len(call.response_ids) == len(call.logprobs) > 0 for call in calls if call.trainable)


def test_the_reference_query_never_reaches_the_agent(fitted, tasks):
    for item in fitted["graph"].before.results:
        sent = json.dumps([span.attributes["agl.call"]["request"] for span in item.spans if span.kind == "llm"])
        written = sent.replace(sql(item), "")
        assert item.task.data["query"] not in written or sql(item) == item.task.data["query"]


def test_the_weights_change_and_the_version_counts_up(fitted):
    result = fitted["graph"]
    before, after = (
        load_file(EXAMPLE / "model" / "model.safetensors"),
        load_file(result.checkpoint / "policy" / "model" / "model.safetensors"),
    )
    assert any(not torch.equal(before[name].float(), after[name].float()) for name in after)
    assert {call.version for item in result.after.results for call in item.transitions} == {"1"}


def test_a_run_killed_and_resumed_ends_like_one_that_was_not(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_script(straight)
    process = start_script(killed)
    wait_for(killed, "step-000002")
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_script(killed, "--resume")
    assert weights(straight).keys() == weights(killed).keys()
    assert all(torch.equal(value, weights(killed)[name]) for name, value in weights(straight).items())
    assert rewards(straight) == rewards(killed)


SCRIPT = """
import sys
sys.path.insert(0, {example!r})
import agl, torch, train_sql_agent as script
from data import make_splits
from pathlib import Path
torch.set_num_threads(1)
folder = Path({folder!r})
tasks = make_splits(folder.parent / "databases", seed=0, train=24, val=4, test=4)  # a task's id is a hash of all it holds, paths too
trainer = agl.Trainer(
    algorithm=agl.GRPO({model!r}, steps=4, batch_size=2, group_size=4, lr=3e-4, max_tokens=64, checkpoint_every=1),
    n_runners=1, adapter={{"agent_match": "write|rewrite"}}, store=folder / "store.sqlite", seed=3,
)
trainer.fit(script.SPELLINGS["graph"], train_dataset=tasks.train, resume="--resume" in sys.argv or None)
"""


def start_script(folder, *arguments):
    folder.mkdir(exist_ok=True)
    code = SCRIPT.format(example=str(EXAMPLE), folder=str(folder), model=str(EXAMPLE / "model"))
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=os.environ)


def run_script(folder, *arguments):
    assert start_script(folder, *arguments).wait(timeout=150) == 0


def wait_for(folder, checkpoint):
    deadline = time.monotonic() + 120
    while not list(folder.glob(f"runs/*/checkpoints/{checkpoint}")):
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)


def weights(folder):
    [found] = folder.glob("runs/*/checkpoints/step-000004")
    return load_file(found / "policy" / "model" / "model.safetensors")


def rewards(folder):
    [found] = folder.glob("runs/*/metrics.jsonl")
    return [(line["step"], line["reward"], line["loss"]) for line in map(json.loads, found.read_text().splitlines())]
