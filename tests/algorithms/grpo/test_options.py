"""Options of GRPO: unknown or impossible ones are refused before anything starts, and the algorithm says what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agl
from agl.errors import ConfigError, EngineError
from agl_grpo import GRPO


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": 1.0}, r"GRPO has no option \['learning_rate'\]"),
        ({"steps": "many"}, r"Expected `int`, got `str` - at `\$.steps`"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"group_size": 1}, "`group_size` must be at least 2"),
        ({"estimator": "ppo"}, r"`estimator` must be one of \['dr_grpo', 'grpo', 'rloo'\]"),
        ({"baseline": "sibling"}, r"`baseline` must be one of \['group', 'role'\], given was 'sibling'"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"dtype": "int8"}, "`dtype` must be"),
        ({"lr_floor": 0.1}, "`lr_floor=0.1` has no effect on the schedule `constant`"),
        ({"engine": "native=4"}, "the engine `native` cannot be made as `engine='native=4'` with .*positional"),
        ({"lora": {"depth": 3}}, "`lora` takes"),
    ],
)
def test_an_option_that_cannot_work_is_named(options: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        GRPO("model", **options)


def test_a_model_must_be_named():
    with pytest.raises(ConfigError, match="GRPO needs `model=`"):
        agl.GRPO()


@agl.rollout
def agent(task: dict[str, Any]) -> float:
    return 1.0


def trainer(folder: Path, **options: Any) -> agl.Trainer:
    return agl.Trainer(algorithm=agl.GRPO(**options), store=folder / "store.sqlite", quiet=True)


def test_a_wrong_model_path_stops_the_fit_before_any_rollout(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no folder `\./no-such-model`"):
        trainer(tmp_path, model="./no-such-model").fit(agent, [{"x": 1}])


def test_validation_without_a_dataset_is_an_error_not_a_no_op(tmp_path: Path):
    with pytest.raises(ConfigError, match="`val_every=5` has no effect without `val_dataset`"):
        trainer(tmp_path, model="./no-such-model", val_every=5).fit(agent, [{"x": 1}])


def test_a_port_in_use_is_named(tmp_path: Path, model: Any, tokenizer: Any):
    import socket

    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port}"):
            trainer(tmp_path, model=str(tmp_path / "policy"), port=port).fit(agent, [{"x": 1}])


def test_an_agent_that_makes_no_llm_call_is_told_so_at_the_first_step(tmp_path: Path, model: Any, tokenizer: Any):
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    with pytest.raises(agl.AglError, match="the agent made no LLM call through its attempt's endpoint"):
        trainer(tmp_path, model=str(tmp_path / "policy"), steps=1, batch_size=1, group_size=2).fit(agent, [{"x": 1}])
