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
from agl.builtin.tensorboard import TensorBoard
from agl.errors import ConfigError, PluginError
from agl.results import Evaluation
from agl.rewards import Reward
from agl.testing.memory import MemoryStore
from agl.testing.rewards import make_result
from agl.trackers import Tracker, Trackers, evaluation_numbers, flat, make_trackers, numbers

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
    assert numbers({"step": 3, "failures": {"timeout": 2, "agent": 0}, "none": {}}) == {"failures.timeout": 2.0, "failures.agent": 0.0}


def test_without_a_folder_tensorboards_files_are_in_the_runs_directory():
    result = fit("tensorboard")
    assert len(list((result.directory / "tensorboard").glob("events.out.tfevents.*"))) == 1


def evaluation(*rewards):
    results = [make_result("", rewards=[] if value is None else [Reward(value=value)]) for value in rewards]
    return Evaluation(results=tuple(results), mode="val", step=1, resources_version=1)


def test_an_evaluation_is_its_mean_and_the_ends_of_its_interval():
    found = evaluation_numbers(evaluation(1.0, 0.0, None))
    assert found == pytest.approx({"val/reward": 0.5, "val/reward_low": 0.0945, "val/reward_high": 0.9055}, abs=1e-4)
    assert evaluation_numbers(evaluation(0.5)) == {"val/reward": 0.5}, "one value alone has no spread"
    assert evaluation_numbers(evaluation(None)) == {}


def test_a_configuration_is_flattened_to_one_name_a_value():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": {}, "f": None}) == {"a.b": 1, "a.c.d": [2], "e": {}, "f": None}


class FakeWandB(types.ModuleType):
    """Notes what it is told: the real package has tests of its own (`make test-trackers`)."""

    Error = type("Error", (Exception,), {})
    run = None

    def __init__(self, *, key=True):
        super().__init__("wandb")
        self.key, self.calls, self.summary = key, [], {}

    def login(self, verify):
        if not self.key:
            raise self.Error("no API key configured")
        self.calls.append(("login", verify))

    def init(self, **given):
        self.calls.append(("init", given))
        return self

    def define_metric(self, name, **options):
        self.calls.append(("define_metric", name))

    def log(self, values):
        self.calls.append(("log", values))

    def finish(self, exit_code):
        self.calls.append(("finish", exit_code))

    def teardown(self):
        self.calls.append(("teardown", None))


@pytest.fixture
def wandb(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_is_told_the_run_under_its_own_id(wandb):
    result = fit("wandb=my-project")
    given = dict(wandb.calls)["init"]
    assert (given["project"], given["id"], given["resume"], given["config"]["algorithm.lr"]) == ("my-project", result.run_id, "allow", 0.1)
    assert (given["dir"], given["name"]) == (str(result.directory), result.run_id)
    logged = [values for kind, values in wandb.calls if kind == "log"]
    assert [(values["step"], values.get("reward"), values.get("val/reward")) for values in logged] == [
        (1, 0.5, None),
        (2, 0.5, None),
        (2, None, 0.25),
    ]
    assert wandb.summary == {"status": "done"}
    assert wandb.calls[-2:] == [("finish", 0), ("teardown", None)]


def test_what_wandbs_own_variables_say_is_left_to_it(wandb, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "mine")
    fit("wandb")
    given = dict(wandb.calls)["init"]
    assert (given["project"], {"dir", "name"} & set(given)) == ("mine", set())


def test_wandbs_processes_go_on_while_another_run_needs_them(wandb):
    wandb.run = object()  # the user's own
    fit("wandb", "wandb=other")
    assert "teardown" not in dict(wandb.calls)
    wandb.run = None
    with pytest.raises(RuntimeError):
        fit("wandb", "wandb=other", fails=True)
    assert [call for call in wandb.calls if call[0] in ("finish", "teardown")][-3:] == [("finish", 1), ("finish", 1), ("teardown", None)]


def test_who_is_not_logged_in_is_told_before_the_run(wandb, monkeypatch):
    wandb.key = False
    with pytest.raises(
        ConfigError, match=r"`wandb` cannot log in: no API key configured; say `wandb login`, or set WANDB_API_KEY, or WANDB_M"
    ):
        make_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert make_trackers(["wandb"])[0].project == "agl"


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_tracker_without_its_package_says_what_to_install(name, package, monkeypatch):
    for part in [package, *(loaded for loaded in sys.modules if loaded.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(ConfigError, match=rf'the tracker `{name}` needs {package} .*: pip install "agl-core\[{name}\]"'):
        make_trackers([name])


def test_an_unknown_tracker_lists_those_there_are():
    with pytest.raises(PluginError, match=r"no tracker is named `board`; there are .*'jsonl', 'mlflow', 'tensorboard', 'wandb'"):
        make_trackers(["board"])


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
