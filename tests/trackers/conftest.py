"""Trackers with the real packages of their dashboards: `make test-trackers`, in an environment of its own."""

import pytest

import agl
from agl.algorithms import Algorithm

TASKS = [{"id": n} for n in range(4)]


class Toy(Algorithm):
    """Four steps with a checkpoint after the second; it breaks after the third unless told not to."""

    name = "toy"

    def __init__(self):
        self.breaks = False

    def config(self):
        return {"lr": 0.25, "schedule": {"warmup": 2}}

    async def start(self, run):
        return {"prompt": agl.PromptTemplate(template="0")}

    async def fit(self, run):
        await run.evaluate()
        for step in run.steps(4):
            await run.rollout(run.train.sample(1))
            metrics = {"reward": step / 8, "planner/writer reward": 0.5, "note": "text", "lost": None}
            await run.publish(metrics=metrics, prompt=agl.PromptTemplate(template=str(step + 1)))
            if step == 1:
                await run.checkpoint(lambda folder: None)
            if step == 2 and self.breaks:
                raise RuntimeError("broken algorithm")
        await run.evaluate()


@agl.rollout
def agent(task):
    return float(task["id"] % 2)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("AGL_RESUME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_DIR", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fit(tmp_path):
    """Fits the toy algorithm with these trackers; with `breaks` it fails after its third step, and `resume` goes on after the second."""

    def run(*trackers, breaks=False, resume=None):
        algorithm = Toy()
        algorithm.breaks = breaks
        trainer = agl.Trainer(algorithm=algorithm, store=tmp_path / "agl.sqlite", trackers=trackers, seed=4, quiet=True)
        return trainer.fit(agent, TASKS, TASKS[:2], resume=resume)

    return run


@pytest.fixture
def broken_and_resumed(fit):
    """The same run twice: broken after its third step, and taken up again after its checkpoint at the second."""

    def run(*trackers):
        with pytest.raises(RuntimeError, match="broken algorithm"):
            fit(*trackers, breaks=True)
        return fit(*trackers, resume=True)

    return run
