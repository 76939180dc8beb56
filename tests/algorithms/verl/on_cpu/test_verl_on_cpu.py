"""VERL's own path on a CPU, with the LangGraph SQL agent: collected only in an environment with VERL (`make test-verl`).

The same rollouts are given to native GRPO: its advantages, losses, gradient norms and weights are VERL's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

pytest.importorskip("verl")

MODEL = Path(__file__).resolve().parents[4] / "examples" / "sql_agent" / "model"
KILLED_AFTER = 2
pytestmark = pytest.mark.timeout(2700)


def test_a_killed_run_leaves_no_process_and_goes_on_after_its_last_checkpoint(killed, lines) -> None:
    assert killed.left == []
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert f"goes on after step {KILLED_AFTER}" in killed.second
    assert f"setting global step to {KILLED_AFTER}" in killed.second


def test_each_step_learns_from_rollouts_of_the_weights_that_the_step_before_it_made(steps) -> None:
    calls = [[call for group in groups for result in group.results for call in result.transitions] for groups in steps]
    versions = [{call.version for call in found if call.response_ids} for found in calls]  # one that failed, and was tried again, has none
    assert versions == [{"0"}, {"1"}, {"2"}, {"3"}]


def test_every_trained_call_of_every_rollout_is_in_verls_batch(steps, lines) -> None:
    for groups, line in zip(steps, lines, strict=True):
        assert [len(group.results) for group in groups] == [4] * 8
        assert line["agl/rows"] == sum(len(result.rows()) for group in groups for result in group.results)
        assert (line["rows_dropped"], line["agl/optimizer_steps"]) == (0, 1)


def test_the_trainer_sees_the_probabilities_that_the_server_sampled_with(lines) -> None:
    assert max(line["training/rollout_probs_diff_max"] for line in lines) < 1e-5


def test_advantages_are_those_of_native_grpo(killed, steps) -> None:
    from agl_grpo.collect import learning_rows

    for step, groups in enumerate(steps):
        rows, advantages = learning_rows(groups, "grpo")
        native = {
            (row.rollout_id, call.span_id, call.choice): given[len(call.prompt_ids)]
            for row, given in zip(rows, advantages, strict=True)
            for call in row.transitions
        }
        [path] = killed.folder.glob(f"runs/*/learned/step-{step + 1:06d}.jsonl")
        told = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
        verl = {(item["rollout_id"], call["span_id"], call["choice"]): call["advantage"] for item in told for call in item["calls"]}
        assert verl.keys() == native.keys()
        assert [verl[key] for key in native] == pytest.approx(list(native.values()), abs=1e-4)


@pytest.fixture(scope="session")
def native(killed: Any, steps: list[Any]) -> tuple[list[dict[str, float]], Any]:
    """Native GRPO on the same rollouts, from the same weights: metrics of each step, and the weights after the last."""
    from transformers import AutoModelForCausalLM

    from agl_grpo.collect import learning_rows
    from agl_grpo.learner import Learner

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    learner = Learner(model, lr=3e-4, betas=(0.9, 0.99), weight_decay=0.0, max_grad_norm=1.0, clip_low=0.2, clip_high=0.28, epochs=2)
    return [learner.update(*learning_rows(groups, "grpo")) for groups in steps], model


def test_losses_and_gradients_are_those_of_native_grpo_on_the_same_transitions(native, lines) -> None:
    found, _ = native
    assert max(one["grad_norm"] for one in found) > 0.01
    assert min(one["loss"] for one in found) < -1e-3
    assert [line["actor/pg_loss"] for line in lines] == pytest.approx([one["loss"] for one in found], abs=1e-4)
    assert [line["actor/grad_norm"] for line in lines] == pytest.approx([one["grad_norm"] for one in found], rel=1e-3, abs=1e-4)


def test_after_a_kill_and_a_resume_the_weights_are_those_of_an_unbroken_native_run(killed, native) -> None:
    from transformers import AutoModelForCausalLM

    _, model = native
    [folder] = killed.folder.glob("runs/*/verl/global_step_4/actor")
    [path] = folder.glob("model_world_size_1_rank_0.pt")
    saved = torch.load(path, weights_only=False, map_location="cpu")
    start = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).state_dict()
    apart, moved = 0.0, 0.0
    for name, value in model.state_dict().items():
        theirs = saved[name].full_tensor() if hasattr(saved[name], "full_tensor") else saved[name]
        apart += (theirs.float() - value).square().sum().item()
        moved += (value - start[name]).square().sum().item()
    # Adam makes full steps out of gradients that are rounding errors, so single weights may differ: the weights as a whole do not.
    assert (apart / moved) ** 0.5 < 0.005
