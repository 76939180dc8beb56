"""Runs of a few steps: a real agent, AGL's Trainer, the engine `native` and a tiny model."""

import json
from statistics import fmean

import agl
import openai
import pytest
import torch
from agl.errors import DataError
from transformers import AutoModelForCausalLM

from agl_best_of_n.algorithm import BestOfN
from agl_best_of_n.learner import Learner

CLIENT = openai.OpenAI(base_url="http://127.0.0.1", api_key="none")
TASKS = [{"id": index, "text": f"{index}"} for index in range(8)]


def ask(llm: agl.LLM, text: str) -> str:
    client = CLIENT.with_options(base_url=llm.endpoint, api_key=llm.api_key)
    reply = client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": text}])
    return reply.choices[0].message.content or ""


@agl.rollout
def writer(task, llm):
    """Is asked twice, by two roles; the share of plain characters in the writer's answer is the reward."""
    with agl.role("writer"):
        text = ask(llm, task["text"])
    with agl.role("critic"):
        ask(llm, text)
    return plain(text)


@agl.rollout
def speaker(task, llm):
    return plain(ask(llm, task["text"]))


def plain(text: str) -> float:
    return fmean(character.isascii() for character in text) if text else 0.0


@agl.rollout
def content(task, llm):
    """Is content with whatever the model says."""
    ask(llm, task["text"])
    return 1.0


@pytest.fixture
def fit(model_folder, tmp_path):
    def run(agent, *, agent_match=None, val=None, n_runners=8, store="store", resume=None, **options):
        settings = {"steps": 2, "batch_size": 4, "group_size": 4, "lr": 1e-2, "max_tokens": 4, **options}
        trainer = agl.Trainer(
            algorithm=BestOfN(model_folder, **settings),
            adapter={"agent_match": agent_match} if agent_match else None,
            n_runners=n_runners,
            store=tmp_path / store / "store.sqlite",
            quiet=True,
        )
        return trainer.fit(agent, TASKS, val, resume=resume)

    return run


@pytest.fixture
def updates(monkeypatch):
    """The rows of each update."""
    seen, update = [], Learner.update
    monkeypatch.setattr(Learner, "update", lambda self, rows: (seen.append(rows), update(self, rows))[1])
    return seen


def lines(result, name="metrics.jsonl"):
    return [json.loads(line) for line in (result.directory / name).read_text().splitlines()]


def learned(result):
    """The metrics without what a resumed run does anew: it takes its own time, and publishes its first resources again."""
    return [{name: value for name, value in line.items() if name not in ("seconds", "version")} for line in lines(result)]


def parameters(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_model_comes_to_do_what_is_rewarded(fit):
    result = fit(speaker, steps=8, batch_size=8, lr=3e-2)
    rewards = [line["reward"] for line in lines(result)]
    assert fmean(rewards[-2:]) > fmean(rewards[:2]) + 0.2


def test_a_step_tells_what_was_kept(fit, updates):
    first, second = lines(fit(writer, agent_match="writer"))
    assert (first["rollouts"], first["groups"]) == (16, 4)
    assert [line["kept"] for line in (first, second)] == [len({row.rollout_id for row in rows}) for rows in updates]
    assert 0 < first["groups_used"] <= 4
    assert 0 < first["kept"] < 16
    assert first["loss"] > 0 < first["grad_norm"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_what_is_imitated_is_better_than_the_rest_unless_rewards_are_shuffled(fit, updates, monkeypatch, shuffled):
    rewards, rollout = {}, agl.Run.rollout

    async def noted(self, *given, **named):
        groups = await rollout(self, *given, **named)
        rewards.update((result.rollout.rollout_id, (group.rewards, result.reward)) for group in groups for result in group.results)
        return groups

    monkeypatch.setattr(agl.Run, "rollout", noted)
    result = fit(speaker, steps=1, batch_size=8, shuffle_rewards=shuffled)
    kept = {row.rollout_id for rows in updates for row in rows}
    assert len(kept) == lines(result)[0]["kept"]
    above = {name for name, (group, reward) in rewards.items() if reward > fmean(group)}
    assert (kept == above) is not shuffled


def test_only_the_trained_roles_calls_are_imitated(fit, updates):
    fit(writer, agent_match="writer")
    assert {call.role for rows in updates for row in rows for call in row.transitions} == {"writer"}
    fit(writer)
    assert {call.role for rows in updates for row in rows for call in row.transitions} == {"writer", "critic"}


def test_without_spread_nothing_is_learned_and_the_run_goes_on(fit, model_folder):
    result = fit(content)
    assert [(line["groups_used"], line["kept"], "loss" in line) for line in lines(result)] == [(0, 0, False)] * 2
    assert result.resources["main_llm"].version == "2"
    before, after = parameters(model_folder), parameters(result.checkpoint)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_rollouts_of_which_no_call_can_be_trained_end_the_run(fit):
    with pytest.raises(DataError, match="no call of theirs can be trained"):
        fit(writer, agent_match="nobody")


def test_checkpoints_and_validations_come_when_they_are_asked_for(fit):
    result = fit(writer, steps=3, checkpoint_every=2, val=TASKS[:2])
    assert [line["step"] for line in lines(result, "evaluations.jsonl")] == [2, 3]
    assert sorted(folder.name for folder in (result.directory / "checkpoints").iterdir()) == ["step-000002", "step-000003"]


def test_a_run_that_broke_goes_on_as_if_it_had_not(fit, monkeypatch):
    settings = {"steps": 3, "batch_size": 2, "checkpoint_every": 1, "n_runners": 1}  # one at a time: no batches of chance
    straight = fit(speaker, store="straight", **settings)
    update = Learner.update
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", lambda self, rows: update(self, rows) if self.optimizer.state == {} else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(speaker, store="broken", **settings)
    broken = fit(speaker, store="broken", resume=True, **settings)
    left, right = parameters(straight.checkpoint), parameters(broken.checkpoint)
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    assert learned(straight) == learned(broken)
