"""The tracker `wandb` with the real package, offline: its files are read back with its own messages."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import wandb
from wandb.proto import wandb_internal_pb2 as messages

from agl.builtin.wandb import WandB
from agl.errors import ConfigError
from agl.testing.trackers import Kept, TrackerConformance

BLOCK, HEADER = 32768, 7


def records(path):
    """Messages of a `.wandb` file: LevelDB's log format (blocks of 32 KiB; CRC, length and type before each part) after 7 bytes."""
    data, at, whole = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # what is left of a block holds no header
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last of its parts
            yield messages.Record.FromString(whole)
            whole = b""


def read(directory, run_id):
    """What W&B's files hold of a run, those of each time it went on in their order."""
    metrics, config, status = {}, {}, None
    for path in sorted(directory.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for record in records(path):
            if record.HasField("run"):
                assert record.run.run_id == run_id
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update} | {"project": record.run.project}
            for name, step, value in _history(record):
                metrics.setdefault(name, {})[step] = value
            for item in record.summary.update:
                if (item.key or item.nested_key[0]) == "status":
                    status = json.loads(item.value_json)
    return Kept(metrics=metrics, config=config, status=status)


def _history(record):
    values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
    return [(name, values["step"], value) for name, value in values.items() if name != "step" and not name.startswith("_")]


class TestWandB(TrackerConformance):
    tracker = WandB
    package = "wandb"
    offline = {"WANDB_MODE": "offline"}
    leaves = (".cache/wandb/logs/*",)

    def make_tracker(self, folder):
        return WandB()

    def read(self, folder, run):
        return read(run.directory, run.run_id)


def test_a_run_is_in_its_offline_files(fit, tmp_path):
    result = fit("wandb=my-project")
    kept = read(result.directory, result.run_id)
    assert kept.metrics["reward"] == {1: 0.0, 2: 0.125, 3: 0.25, 4: 0.375}
    assert kept.metrics["val/reward"] == {0: 0.5, 4: 0.5}
    assert kept.metrics["val/reward_low"][4] == pytest.approx(0.0945, abs=1e-4)
    assert not {"note", "lost"} & set(kept.metrics)
    assert kept.config["algorithm.schedule"] == {"warmup": 2}
    assert (kept.config["seed"], kept.config["project"], kept.status) == (4, "my-project", "done")
    assert not (tmp_path / "wandb").exists(), "wandb's own place is the working directory"


def test_a_run_that_goes_on_has_the_same_id_and_every_step(broken_and_resumed):
    result = broken_and_resumed("wandb")
    assert len(list((result.directory / "wandb").glob(f"offline-run-*-{result.run_id}"))) == 2, "files each time"
    kept = read(result.directory, result.run_id)
    assert kept.metrics["reward"] == {1: 0.0, 2: 0.125, 3: 0.25, 4: 0.375}
    assert kept.status == "done"


def test_a_run_of_the_users_own_goes_on_beside_it(fit, tmp_path):
    own = wandb.init(project="own", dir=tmp_path)
    try:
        result = fit("wandb")
        assert wandb.run is own
        own.log({"mine": 1.0})
    finally:
        own.finish()
        wandb.teardown()
    assert read(result.directory, result.run_id).metrics["reward"][4] == 0.375
    assert [value for record in records(next(tmp_path.glob(f"wandb/offline-run-*/run-{own.id}.wandb"))) for value in _mine(record)] == [1.0]


def _mine(record):
    return [json.loads(item.value_json) for item in record.history.item if (item.key or item.nested_key[0]) == "mine"]


def test_who_is_not_logged_in_is_told_at_once_and_without_a_question():
    code = """
        from agl.trackers import make_trackers
        make_trackers(["wandb"])
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"{ConfigError.__module__}.{ConfigError.__name__}: the tracker `wandb` cannot log in: " in done.stderr
    assert "say `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline" in done.stderr
