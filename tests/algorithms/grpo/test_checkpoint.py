"""Checkpoints: a run that is loaded goes on bit for bit as one that never stopped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agl.errors import ConfigError
from agl_grpo import checkpoint
from agl_grpo.learner import Learner
from agl_grpo.models import LoRA, load_policy, with_lora
from agl_grpo.schedules import Schedule

OPTIONS: dict[str, Any] = {"lr": 1e-3, "minibatches": 2, "schedule": Schedule("linear", total=50)}
ADVANTAGES = [1.0, -1.0, 0.5, -0.5]


def steps(learner: Learner, make_step: Any, first: int, last: int) -> list[dict[str, float]]:
    timing = ("seconds", "tokens_per_second")
    return [
        {k: v for k, v in learner.update(make_step(4, seed=step), ADVANTAGES).items() if k not in timing} for step in range(first, last)
    ]


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["full", "lora"])
def test_a_loaded_run_goes_on_bit_for_bit(tmp_path: Path, make_model, make_step, tokenizer, lora: LoRA | None) -> None:
    def make() -> Any:
        base = make_model()
        return base if lora is None else with_lora(base, lora)

    straight = Learner(make(), **OPTIONS)
    steps(straight, make_step, 0, 3)
    checkpoint.save(tmp_path / "a", straight, tokenizer, {"step": 3, "version": "3"})
    drawn = (torch.rand(3), random.random(), np.random.rand())
    expected = steps(straight, make_step, 3, 6)

    resumed = Learner(make(), **OPTIONS)
    assert checkpoint.load(tmp_path / "a", resumed) == {"step": 3, "version": "3"}
    assert torch.equal(torch.rand(3), drawn[0])
    assert (random.random(), np.random.rand()) == drawn[1:]
    assert (resumed.steps, resumed.updates) == (6, 3)
    assert steps(resumed, make_step, 3, 6) == expected
    assert all(torch.equal(old, new) for old, new in zip(straight.model.parameters(), resumed.model.parameters(), strict=True))


def test_the_weights_of_a_checkpoint_are_a_model_folder(tmp_path: Path, model, make_step, tokenizer) -> None:
    learner = Learner(model, **OPTIONS)
    steps(learner, make_step, 0, 1)
    saved = checkpoint.save(tmp_path / "a", learner, tokenizer)
    loaded, words = load_policy(saved / "model", device="cpu")
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), loaded.parameters(), strict=True))
    assert words.chat_template


def test_tied_weights_stay_tied(tmp_path: Path, make_model, make_step, tokenizer) -> None:
    learner = Learner(make_model(tie_word_embeddings=True), **OPTIONS)
    steps(learner, make_step, 0, 1)
    checkpoint.save(tmp_path / "a", learner, tokenizer)
    other = Learner(make_model(seed=1, tie_word_embeddings=True), **OPTIONS)
    checkpoint.load(tmp_path / "a", other)
    assert other.model.lm_head.weight is other.model.model.embed_tokens.weight
    assert torch.equal(other.model.lm_head.weight, learner.model.lm_head.weight)


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path: Path, model, make_step, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(model, **OPTIONS)
    checkpoint.save(tmp_path / "a", learner, tokenizer, {"step": 1})
    monkeypatch.setattr(checkpoint, "_sync", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path / "a", learner, tokenizer, {"step": 2})
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path / "b", learner, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert checkpoint.load(tmp_path / "a", learner) == {"step": 1}


def test_saving_again_replaces_and_the_latest_is_found(tmp_path: Path, model, make_step, tokenizer) -> None:
    assert checkpoint.latest(tmp_path / "runs") is None
    learner = Learner(model, **OPTIONS)
    checkpoint.save(tmp_path / "runs" / "zero", learner, tokenizer)
    steps(learner, make_step, 0, 1)
    checkpoint.save(tmp_path / "runs" / "one", learner, tokenizer, {"try": 1})
    checkpoint.save(tmp_path / "runs" / "one", learner, tokenizer, {"try": 2})
    assert checkpoint.latest(tmp_path / "runs") == tmp_path / "runs" / "one"
    assert checkpoint.load(tmp_path / "runs" / "one", learner) == {"try": 2}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["one", "zero"]


def test_what_is_no_checkpoint_or_of_another_model_is_refused(tmp_path: Path, make_model, tokenizer) -> None:
    learner = Learner(make_model(), **OPTIONS)
    checkpoint.save(tmp_path / "a", learner, tokenizer)
    with pytest.raises(ConfigError, match=r"no `state.json`; checkpoints beside it: \['a'\]"):
        checkpoint.load(tmp_path / "b", learner)
    with pytest.raises(ConfigError, match="do not fit this model"):
        checkpoint.load(tmp_path / "a", Learner(make_model(hidden_size=16), **OPTIONS))
    with pytest.raises(ConfigError, match="made without LoRA"):
        checkpoint.load(tmp_path / "a", Learner(with_lora(make_model(), LoRA(rank=2)), **OPTIONS))
    state = (tmp_path / "a" / "state.json").read_text()
    (tmp_path / "a" / "state.json").write_text(state.replace('"format":1', '"format":99'))
    with pytest.raises(ConfigError, match="format 99"):
        checkpoint.load(tmp_path / "a", learner)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path, model, make_step, tokenizer) -> None:
    learner = Learner(model, **OPTIONS)
    steps(learner, make_step, 0, 1)
    saved = checkpoint.save(tmp_path / "a", learner, tokenizer)
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".jinja"}
