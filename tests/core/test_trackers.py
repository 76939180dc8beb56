"""Trackers are told how a run goes, and cannot harm it."""

import asyncio
import json
import logging
import sys
import time
import types

import pytest

import agl
from agl import trackers as module
from agl.builtin.jsonl import JSONLines
from agl.builtin.tensorboard import TensorBoard, numbers
from agl.errors import ConfigError, PluginError
from agl.testing.memory import MemoryStore
from agl.trackers import Tracker, Trackers, make_trackers

TASKS = [{"id": n} for n in range(4)]


class Toy(agl.Algorithm):
    name = "toy"

    def __init__(self, fails=False):
        self.fails = fails

    def config(self):
        return {"lr": 0.1}

    async def start(self, run):
        return {"prompt": agl.PromptTemplate(template="0")}

    async def fit(self, run):
        for step in run.steps(2):
            await run.rollout(run.train.sample(1))
            await run.publish(metrics={"reward": 0.5, "note": "text"}, prompt=agl.PromptTemplate(template=str(step + 1)))
        await run.evaluate()
        if self.fails:
            raise RuntimeError("broken algorithm")


@agl.rollout
def agent(task):
    return 0.25


class Notes(Tracker):
    name = "notes"

    def __init__(self):
        self.seen = []

    def run_started(self, run):
        self.seen.append(("run_started", run.run_id, run.config["algorithm.lr"], run.seed, run.step))

    async def step_ended(self, metrics):
        await asyncio.sleep(0)
        self.seen.append(("step_ended", metrics["step"], metrics["reward"]))

    def evaluated(self, evaluation):
        self.seen.append(("evaluated", evaluation.mode, evaluation.step, evaluation.mean))

    def run_ended(self, status):
        self.seen.append(("run_ended", status))


class Broken(Notes):
    name = "broken"

    def step_ended(self, metrics):
        raise ValueError("disk full")


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGL_RESUME", raising=False)


def fit(*trackers, fails=False):
    trainer = agl.Trainer(algorithm=Toy(fails), store=MemoryStore("."), trackers=trackers, seed=4, quiet=True)
    return trainer.fit(agent, TASKS, TASKS[:2])


def test_a_tracker_is_told_the_run_its_steps_its_evaluations_and_its_end():
    notes = Notes()
    result = fit(notes)
    assert notes.seen == [
        ("run_started", result.run_id, 0.1, 4, 0),
        ("step_ended", 1, 0.5),
        ("step_ended", 2, 0.5),
        ("evaluated", "val", 2, 0.25),
        ("run_ended", "done"),
    ]


def test_a_run_that_fails_is_told_as_failed():
    notes = Notes()
    with pytest.raises(RuntimeError, match="broken algorithm"):
        fit(notes, fails=True)
    assert notes.seen[-1] == ("run_ended", "failed")


def test_a_failing_tracker_warns_once_and_the_run_and_the_other_trackers_go_on(caplog):
    broken, notes = Broken(), Notes()
    fit(broken, notes)
    assert [record.getMessage() for record in caplog.records] == [
        "tracker `broken` failed in `step_ended`: ValueError: disk full (said once)"
    ]
    assert [event for event, *_ in broken.seen] == ["run_started", "evaluated", "run_ended"]
    assert [event for event, *_ in notes.seen].count("step_ended") == 2


async def test_failures_are_counted():
    told = Trackers([Broken()])
    for _ in range(3):
        await told.tell("step_ended", {})
    assert told.failures == {"broken.step_ended": 3}


async def test_a_tracker_that_could_not_begin_is_told_nothing_more(caplog):
    class Offline(Notes):
        def run_started(self, run):
            raise ConnectionError("not logged in")

    offline = Offline()
    told = Trackers([offline])
    await told.tell("run_started", None)
    await told.tell("step_ended", {"step": 1, "reward": 0.0})
    assert offline.seen == []
    assert "not logged in (it is told nothing more of this run)" in caplog.text


async def test_a_tracker_that_hangs_is_left_behind(monkeypatch, caplog):
    class Hangs(Notes):
        async def step_ended(self, metrics):
            await asyncio.sleep(60)

    monkeypatch.setattr(module, "TELL_SECONDS", 0.05)
    hangs, started = Hangs(), time.monotonic()
    told = Trackers([hangs])
    await told.tell("step_ended", {})
    await told.tell("run_ended", "done")
    assert time.monotonic() - started < 5
    assert hangs.seen == []
    assert "took more than 0.05 s" in caplog.text


def test_a_dry_run_is_not_tracked():
    notes = Notes()
    agl.Trainer(algorithm=Toy(), initial_resources={"prompt": agl.PromptTemplate(template="0")}, trackers=[notes], quiet=True).dev(
        agent, TASKS
    )
    assert notes.seen == []


def test_jsonl_writes_what_happens_as_lines_to_the_path_that_is_given(tmp_path):
    path = tmp_path / "logs" / "runs.jsonl"
    first, second = fit(f"jsonl={path}"), fit(JSONLines(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["run_started", "step_ended", "step_ended", "evaluated", "run_ended"] * 2
    assert [line["run"] for line in lines] == [first.run_id] * 5 + [second.run_id] * 5
    assert lines[0]["config"]["algorithm.lr"] == 0.1
    assert (lines[1]["step"], lines[1]["reward"], lines[1]["note"]) == (1, 0.5, "text")
    assert {name: lines[3][name] for name in ("mode", "step", "version", "reward", "n")} == {
        "mode": "val",
        "step": 2,
        "version": 2,
        "reward": 0.25,
        "n": 2,
    }
    assert lines[4]["status"] == "done"


def test_jsonl_says_at_once_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the tracker `jsonl` cannot write `.*file/runs.jsonl`: .*; name another with `jsonl=PATH`"):
        make_trackers([f"jsonl={tmp_path / 'file' / 'runs.jsonl'}"])


def test_tensorboard_gets_the_numbers_of_every_step(tmp_path):
    result = fit(f"tensorboard={tmp_path / 'curves'}")
    (file,) = (tmp_path / "curves" / result.run_id).glob("events.out.tfevents.*")
    written = file.read_bytes()
    for name in (b"reward", b"val/reward", b"config"):
        assert name in written
    assert b"note" not in written, "a text is no curve"


def test_only_finite_numbers_become_curves():
    assert numbers({"step": 3, "a": 1, "b": 0.5, "c": float("nan"), "d": True, "e": "x", "f": None}) == {"a": 1.0, "b": 0.5}


def test_wandb_is_told_the_run_under_its_own_id(monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append(("log", values, step)), finish=lambda exit_code: calls.append(("finish", exit_code))
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **given: calls.append(("init", given)) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    result = fit("wandb=my-project")
    (_, given), *rest = calls
    assert (given["project"], given["id"], given["resume"], given["config"]["algorithm.lr"]) == ("my-project", result.run_id, "allow", 0.1)
    assert [(kind, values["reward"], step) for kind, values, step in rest[:2]] == [("log", 0.5, 1), ("log", 0.5, 2)]
    assert rest[2:] == [("log", {"val/reward": 0.25}, 2), ("finish", 0)]


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_tracker_without_its_package_says_what_to_install(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'the tracker `{name}` needs {package} .*: pip install "agl-core\[{name}\]"'):
        make_trackers([name])


def test_an_unknown_tracker_lists_those_there_are():
    with pytest.raises(PluginError, match=r"no tracker is named `mlflow`; there are .*'jsonl', 'tensorboard', 'wandb'"):
        make_trackers(["mlflow"])


def test_what_is_no_tracker_is_refused():
    with pytest.raises(ConfigError, match=r"a tracker must be an `agl.trackers.Tracker` or the name of one, given was 3"):
        make_trackers([3])
    with pytest.raises(ConfigError, match=r"`trackers` must be a list, given was 'jsonl'; write `trackers=\['jsonl'\]`"):
        make_trackers("jsonl")


def test_a_driver_that_needs_an_argument_says_how_to_give_it(install_package):
    code = "from agl.trackers import Tracker\nclass T(Tracker):\n    name = 't'\n    def __init__(self, where): self.where = where\n"
    install_package("agl-t", {"t": "agl_t:T"}, group="agl.trackers", agl_t=code)
    assert make_trackers(["t=here=there"])[0].where == "here=there"
    with pytest.raises(ConfigError, match=r"the tracker `t` cannot be made from 't': .*; write `t=VALUE`, or give the object"):
        make_trackers(["t"])


def test_the_base_takes_every_event_and_does_nothing():
    tracker = Tracker()
    assert [tracker.run_started(None), tracker.step_ended({}), tracker.evaluated(None), tracker.run_ended("done")] == [None] * 4
    logging.getLogger("agl")
    assert isinstance(TensorBoard("x"), Tracker)
