"""The tracker `tensorboard`, its files read by TensorBoard."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agl.builtin.tensorboard import TensorBoard
from agl.testing.trackers import Kept, TrackerConformance


def read(folder):
    """What TensorBoard shows of a run's folder."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    texts = {
        tag.removesuffix("/text_summary"): board.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in board.Tags()["tensors"]
    }
    told = json.loads(texts["config"].removeprefix("```json").removesuffix("```"))
    metrics = {tag: {event.step: event.value for event in board.Scalars(tag)} for tag in board.Tags()["scalars"]}
    counts = {tag: len(board.Scalars(tag)) for tag in metrics}
    assert counts == {tag: len(points) for tag, points in metrics.items()}, "a step stands there twice"
    return Kept(metrics=metrics, config=told["config"] | {"seed": told["seed"], "run": told["run"]}, status=texts.get("status"))


class TestTensorBoard(TrackerConformance):
    tracker = TensorBoard
    package = "tensorboardX"

    def make_tracker(self, folder):
        return TensorBoard()

    def read(self, folder, run):
        return read(run.directory / "tensorboard")


class TestTensorBoardInAFolder(TrackerConformance):
    tracker = TensorBoard
    package = "tensorboardX"

    def make_tracker(self, folder):
        return TensorBoard(folder)

    def read(self, folder, run):
        return read(folder / run.run_id)


def test_a_run_is_shown(fit):
    result = fit("tensorboard")
    shown = read(result.directory / "tensorboard")
    assert shown.metrics["reward"] == {1: 0.0, 2: 0.125, 3: 0.25, 4: 0.375}
    assert shown.metrics["val/reward"] == {0: 0.5, 4: 0.5}
    assert shown.metrics["val/reward_low"][4] == pytest.approx(0.0945, abs=1e-4)
    assert "note" not in shown.metrics
    assert (shown.config["algorithm.lr"], shown.config["run"], shown.config["seed"], shown.status) == (0.25, result.run_id, 4, "done")


def test_a_run_that_goes_on_has_every_step_once(broken_and_resumed):
    result = broken_and_resumed("tensorboard")
    assert len(list((result.directory / "tensorboard").iterdir())) == 2, "a file each time"
    shown = read(result.directory / "tensorboard")
    assert shown.metrics["reward"] == {1: 0.0, 2: 0.125, 3: 0.25, 4: 0.375}
    assert shown.status == "done"
