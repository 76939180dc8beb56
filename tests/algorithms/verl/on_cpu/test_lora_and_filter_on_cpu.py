"""Two steps of VERL in its plain mode, with a LoRA adapter and DAPO's group filter."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[3] / "examples" / "sql_agent" / "model"
BATCH, RANK, ALPHA = 8, 8, 16
PREFIX = "base_model.model."
"""What PEFT puts before a model's own names."""
Weights = dict[str, torch.Tensor]
pytestmark = pytest.mark.timeout(2700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, on_cpu: Any) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    on_cpu.ended([str(HERE / "train.py"), str(folder), "--steps", "2", "--lora", "--filter"], folder)
    return folder


@pytest.fixture(scope="module")
def lines(folder: Path, read_lines: Any) -> list[dict[str, Any]]:
    return read_lines(folder, "runs/*/metrics.jsonl")


@pytest.fixture(scope="module")
def rollouts(folder: Path) -> dict[str, Any]:
    """All training rollouts of the run, by their id."""
    from agl.store.opening import opened

    async def read() -> list[Any]:
        with opened(folder / "store.sqlite") as store:
            [run] = await store.runs()
            return await store.results(await store.find(run.run_id, mode="train"))

    return {result.rollout.rollout_id: result for result in asyncio.run(read())}


@pytest.fixture(scope="module")
def learned(folder: Path, read_lines: Any) -> list[list[dict[str, Any]]]:
    """What each step's loss was made of: one item for each row."""
    return [read_lines(folder, f"runs/*/learned/step-{step:06d}.jsonl") for step in (1, 2)]


@pytest.fixture(scope="module")
def saved(folder: Path) -> list[Weights]:
    """The base's and the adapter's weights after each step."""
    found = []
    for step in (1, 2):
        [path] = folder.glob(f"runs/*/verl/global_step_{step}/actor/model_world_size_1_rank_0.pt")
        given = torch.load(path, weights_only=False, map_location="cpu")
        found.append(
            {name.removeprefix(PREFIX): value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in given.items()}
        )
    return found


def start() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


def merged(saved: Weights) -> Weights:
    """The model's weights with the adapter's product added to them: W + alpha / rank * B A."""
    found = {}
    for name, value in saved.items():
        if ".lora_" in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            value = value + ALPHA / RANK * saved[f"{layer}.lora_B.default.weight"] @ saved[f"{layer}.lora_A.default.weight"]
        found[name.replace(".base_layer", "")] = value
    return found


def as_sent(weights: Weights) -> Weights:
    """VERL sends a merged adapter in bfloat16."""
    return {name: value.bfloat16().float() for name, value in weights.items()}


def calls_of(learned: list[dict[str, Any]], rollouts: dict[str, Any]) -> list[Any]:
    """The calls that entered a step's loss."""
    from agl.transitions import transitions_of

    spans = {call["span_id"] for item in learned for call in item["calls"]}
    results = {item["rollout_id"]: rollouts[item["rollout_id"]] for item in learned}
    return [call for result in results.values() for call in transitions_of(result.spans) if call.span_id in spans]


def apart(model: Any, weights: Weights, calls: list[Any]) -> float:
    """The largest difference between the probabilities that calls were sampled with and those of weights."""
    model.load_state_dict(weights, strict=False)
    largest = 0.0
    for call in calls:
        prompt, response = call.prompt_ids, torch.tensor(call.response_ids)  # (T,)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *call.response_ids]])).logits[0, len(prompt) - 1 : -1]  # (T, V)
        found = logits.log_softmax(-1).gather(1, response[:, None])[:, 0].exp()  # (T,)
        largest = max(largest, (found - torch.tensor(call.logprobs).exp()).abs().max().item())
    return largest


def test_the_adapter_learns_in_each_step_and_the_base_never(saved: list[Weights]) -> None:
    base = start().state_dict()
    for weights in saved:
        kept = {name.replace(".base_layer", ""): value for name, value in weights.items() if ".lora_" not in name}
        assert {*base} - {*kept} <= {"lm_head.weight"}  # tied
        assert all(torch.equal(value, base[name]) for name, value in kept.items())
    ups = [name for name in saved[0] if ".lora_B." in name]  # these start at zero
    assert ups
    assert all(saved[0][name].abs().max() > 0 for name in ups)
    assert not any(torch.equal(saved[0][name], saved[1][name]) for name in ups)


def test_the_second_step_samples_with_what_the_adapter_learned_in_the_first(
    learned: list[list[dict[str, Any]]], rollouts: dict[str, Any], saved: list[Weights], lines: list[dict[str, Any]]
) -> None:
    first, second = (calls_of(items, rollouts) for items in learned)
    assert ({call.version for call in first}, {call.version for call in second}) == ({"0"}, {"1"})
    model = start()
    base, adapted = {name: value.clone() for name, value in model.state_dict().items()}, merged(saved[0])
    assert apart(model, as_sent(base), first) < 1e-4
    assert apart(model, as_sent(adapted), second) < 1e-4
    assert apart(model, as_sent(base), second) > 1e-2
    # VERL learns in float32, and its own metric is as far from what was sampled as that rounding is.
    of_trainer = [apart(model, base, first), apart(model, adapted, second)]
    assert of_trainer == pytest.approx([line["training/rollout_probs_diff_max"] for line in lines], abs=1e-4)


def test_groups_with_equal_rewards_do_not_enter_a_step_and_others_take_their_place(
    learned: list[list[dict[str, Any]]], rollouts: dict[str, Any], lines: list[dict[str, Any]]
) -> None:
    for items, line in zip(learned, lines, strict=True):
        groups: dict[str, list[float]] = {}
        for name in {item["rollout_id"] for item in items}:
            groups.setdefault(rollouts[name].rollout.group_id, []).append(rollouts[name].reward)
        assert [len(rewards) for rewards in groups.values()] == [4] * BATCH
        assert all(len({*rewards}) > 1 for rewards in groups.values())
        assert (line["groups"], line["groups_used"], line["rollouts"]) == (BATCH, BATCH, 4 * BATCH)


def test_metrics_count_the_groups_without_spread_and_those_that_were_too_many(
    rollouts: dict[str, Any], lines: list[dict[str, Any]]
) -> None:
    groups: dict[int, dict[str, list[float]]] = {}
    for result in rollouts.values():
        groups.setdefault(result.rollout.step, {}).setdefault(result.rollout.group_id, []).append(result.reward)
    for asked, line in zip((groups[step] for step in sorted(groups)), lines, strict=True):
        without = sum(len({*rewards}) == 1 for rewards in asked.values())
        assert without > 0
        assert line["training/filter_groups/evicted_samples"] == without
        assert line.get("training/filter_groups/discarded_surplus_samples", 0) == len(asked) - without - BATCH
        assert line["groups_left_out"] == len(asked) - BATCH


def test_no_more_groups_run_at_once_than_the_limit_says(rollouts: dict[str, Any]) -> None:
    """`max_inflight_gen_batches` is 1: as many as a step learns from."""
    spans: dict[str, list[float]] = {}
    for result in rollouts.values():
        begun, ended = spans.setdefault(result.rollout.group_id, [float("inf"), 0.0])
        spans[result.rollout.group_id] = [min(begun, result.rollout.created_at), max(ended, result.rollout.ended_at)]
    at_once = max(sum(begun <= moment < ended for begun, ended in spans.values()) for moment, _ in spans.values())
    assert at_once <= BATCH
