"""What needs VERL installed and no run of it: its real defaults, its estimators, its versions, the documentation's script."""

from __future__ import annotations

import importlib.metadata
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

import agl
from agl.errors import ConfigError
from agl_grpo.advantages import grpo, rloo
from agl_verl.advantages import ESTIMATORS, WITHIN_GROUPS, estimator
from agl_verl.configuration import LOSSES, REFUSED_LOSSES, changed, compose_config, verl_defaults
from agl_verl.keys import OPEN, OWNED, at, nested
from agl_verl.plan import facts
from agl_verl.updates import OVER_ROWS, step_factors

ROOT = Path(__file__).resolve().parents[4]
MODEL = ROOT / "examples" / "sql_agent" / "model"
PAGE = (ROOT / "docs" / "from-laptop-to-cluster.md").read_text()


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    return verl_defaults()


@pytest.fixture
def page() -> dict[str, Any]:
    """The names that the page's script defines."""
    [code] = re.findall(r"<!-- example -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/from-laptop-to-cluster.md", "exec"), names)
    return names


def test_the_pages_configuration_composes_over_verls_own_defaults(page, defaults) -> None:
    config = compose_config(page["verl_config"])
    differs = changed(config, defaults)
    assert differs["data.train_batch_size"] == 32
    assert differs["actor_rollout_ref.rollout.name"] == "vllm"
    assert at(config, "actor_rollout_ref.actor.loss_agg_mode") == "seq-mean-token-mean"


def test_the_pages_dry_run_counts_and_says_what_this_machine_lacks(page, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    page["verl_config"]["actor_rollout_ref"]["model"]["path"] = str(MODEL)
    page["verl_config"]["data"] |= {"max_prompt_length": 448, "max_response_length": 64}
    with pytest.raises(
        ConfigError, match=r"this run would not work: .*vLLM, which is not installed.*this machine has none that torch can use"
    ):
        page["train"](dry_run=True)
    told = capsys.readouterr().out
    assert "a step: 32 tasks x 4 rollouts = 128 rollouts, 1 optimiser steps" in told
    assert "the run: 4 steps, 512 rollouts" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("actor_rollout_ref.model.path", "/no/such/model", "cannot be read"),
        ("data.max_prompt_length", 4096, "reads 512 tokens at most"),
        ("ray_kwargs.ray_init.address", "127.0.0.1:9", "the Ray cluster at 127.0.0.1:9 cannot be reached"),
        ("trainer.nnodes", 2, "no Ray cluster is named"),
        ("data.train_batch_size", 5, "must divide"),
    ],
)
def test_every_problem_is_said_before_anything_starts(path: str, value: Any, said: str) -> None:
    given = nested(
        {
            "actor_rollout_ref.model.path": str(MODEL),
            "data.train_batch_size": 4,
            "data.max_prompt_length": 448,
            "data.max_response_length": 64,
            "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
            "actor_rollout_ref.rollout.n": 2,
            "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
            "trainer.n_gpus_per_node": 1,
        }
    )
    *sections, name = path.split(".")
    place = given
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
    assert [problem for problem in agl.VERL(given).dry_run(train=64, val=0).problems if said in problem]


def test_a_model_without_a_chat_template_is_refused(tmp_path) -> None:
    import shutil

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, tmp_path)
    algorithm = agl.VERL(
        nested({"actor_rollout_ref.model.path": str(tmp_path), "data.max_prompt_length": 448, "data.max_response_length": 64})
    )
    assert [problem for problem in algorithm.dry_run(train=2000, val=0).problems if "has no chat template" in problem]


def test_a_model_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r'VERL needs `\{"actor_rollout_ref": \{"model": \{"path": …\}\}\}`'):
        agl.VERL({"data": {"train_batch_size": 4}})


def test_memory_is_counted_from_the_models_shape() -> None:
    config = compose_config(nested({"actor_rollout_ref.model.path": str(MODEL)}))
    config = {**config, "trainer": {**config["trainer"], "n_gpus_per_node": 1}}
    config["actor_rollout_ref"]["actor"]["ppo_max_token_len_per_gpu"] = 1024
    found, _ = facts(config, {}, 64)
    assert found["parameters"] == "1 M parameters, 1 M trained"


def test_keys_that_agl_decides_or_hands_on_are_verls(defaults) -> None:
    assert [path for path in (*OWNED, *OPEN) if at(defaults, path) is None and not _known(defaults, path)] == []


def _known(defaults: dict[str, Any], path: str) -> bool:
    section, _, name = path.rpartition(".")
    return name in (at(defaults, section) if section else defaults)


def test_estimators_and_losses_are_names_of_verl() -> None:
    from verl.trainer.ppo import core_algos

    assert [name for name in ESTIMATORS if core_algos.get_adv_estimator_fn(name) is None] == []
    assert [name for name in LOSSES if core_algos.get_policy_loss_fn(name) is None] == []


@pytest.mark.parametrize(("name", "native"), [("grpo", grpo), ("rloo", rloo), ("grpo_vectorized", grpo), ("rloo_vectorized", rloo)])
def test_estimators_are_those_of_native_grpo_over_rollouts(name: str, native: Any) -> None:
    from omegaconf import OmegaConf

    values = [[1.0, 0.0, None, 0.25], [0.1] * 5, [0.7, None]]
    tokens = [[3, 9, 1, 4], [2] * 5, [6, 1]]
    found = estimator(name, OmegaConf.create({"norm_adv_by_std_in_grpo": True}))(values, tokens)
    assert [pytest.approx(group, abs=1e-6) for group in found] == [native(group) for group in values]
    assert found[1:] == [[0.0] * 5, [0.0] * 2]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_gives_one_finite_advantage_for_each_rollout(name: str) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create({"gamma": 1.0, "norm_adv_by_std_in_grpo": True})
    found = estimator(name, config)([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]], [[3, 9, 1], [2, 2, 2]])
    assert [len(group) for group in found] == [3, 3]
    assert found[0][0] > found[0][1]
    if name in WITHIN_GROUPS and name != "grpo_passk":
        assert found[1][0] == found[1][1]


def test_the_versions_of_the_page_are_those_that_verls_metadata_asks_for() -> None:
    asked = importlib.metadata.requires("verl") or []
    for package in ("vllm", "torch", "transformers"):
        [pin] = re.findall(rf'^{package}==([\d.]+); extra == ["\']vllm["\']$', "\n".join(asked), re.MULTILINE)
        assert re.search(rf"^\| `{package}` \| `{re.escape(pin)}` \|", PAGE, re.MULTILINE), (package, pin)
    [pin] = re.findall(r'^vllm==([\d.]+); extra == ["\']vllm["\']$', "\n".join(asked), re.MULTILINE)
    assert f"vllm-{pin}+cu129-" in PAGE


def test_the_run_on_a_cpu_has_no_problem_by_agls_checks_and_verls(on_cpu) -> None:
    found = agl.VERL(on_cpu.config(MODEL, 4)).dry_run(train=64, val=4)
    assert found.problems == ()
    assert found.facts["rollouts by"] == "native, on a Ray of its own"


def test_a_run_that_cannot_work_makes_no_rollout(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    page["verl_config"]["actor_rollout_ref"]["model"]["path"] = str(MODEL)
    with pytest.raises(ConfigError, match=r"VERL cannot start: .*reads 512 tokens at most"):
        page["train"](dry_run=False)
    with sqlite3.connect(tmp_path / ".agl" / "store.sqlite") as store:
        assert store.execute("SELECT count(*) FROM rollouts").fetchone() == (0,)
    store.close()


def test_sections_may_be_options_by_name_as_settings_give_them() -> None:
    given = {"actor_rollout_ref": {"model": {"path": str(MODEL)}}, "data": {"train_batch_size": 8}}
    assert agl.VERL(**given).verl == agl.VERL(given).verl


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_a_rollouts_weight_reaches_each_loss_of_verl_exactly(name: str, parts: int) -> None:
    """The mean over optimiser steps of what VERL computes is the sum over all tokens of weight times the loss of that token."""
    import torch
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import FSDPActorConfig

    draw = torch.Generator().manual_seed(parts)
    lengths = [3, 7, 1, 5, 4, 6]
    rows = [(torch.randn(n, generator=draw), -torch.rand(n, generator=draw), 0.3 * torch.randn(n, generator=draw)) for n in lengths]
    weights = torch.rand(len(rows), generator=draw)
    part_of = {str(index): index % parts for index in range(len(rows))}
    # Half of the places of a step are VERL's padding: rows of one masked token.
    step_rows = 2 * len(rows) // parts
    factors = step_factors(dict(zip(part_of, lengths, strict=True)), part_of, by_row=step_rows if name in OVER_ROWS else None)
    config = FSDPActorConfig(strategy="fsdp", rollout_n=4, use_dynamic_bsz=True, clip_ratio_c=3.0)

    def loss(chosen: list[int], scale: list[float], tokens: int, count: int) -> torch.Tensor:
        width = max(lengths)
        advantages, old, new = torch.zeros(3, len(chosen), width).unbind(0)
        mask = torch.zeros(len(chosen), width, dtype=torch.bool)
        for place, (index, factor) in enumerate(zip(chosen, scale, strict=True)):
            given, probability, moved = rows[index]
            advantages[place, : len(given)] = given * factor
            old[place, : len(given)] = probability
            new[place, : len(given)] = probability + moved
            mask[place, : len(given)] = True
        config.global_batch_info.update(dp_size=1, batch_num_tokens=tokens, global_batch_size=count, loss_scale_factor=None)
        found, _ = get_policy_loss_fn(name)(
            old_log_prob=old, log_prob=new, advantages=advantages, response_mask=mask, loss_agg_mode="token-mean", config=config
        )
        return found

    steps = []
    for part in range(parts):
        mine = [index for index in range(len(rows)) if part_of[str(index)] == part]
        tokens = sum(lengths[index] for index in mine)
        # In two micro-batches, as VERL adds them up.
        halves = mine[: len(mine) // 2], mine[len(mine) // 2 :]
        steps.append(sum(loss(half, [weights[i].item() * factors[str(i)] for i in half], tokens, step_rows) for half in halves))
    whole = sum(weights[i] * lengths[i] * loss([i], [1.0], lengths[i], 1) for i in range(len(rows)))
    assert (sum(steps) / parts).item() == pytest.approx(whole.item(), rel=1e-5, abs=1e-5)


def test_refused_losses_are_names_of_verl_too() -> None:
    from verl.trainer.ppo import core_algos

    assert {*LOSSES, *REFUSED_LOSSES} == {*core_algos.POLICY_LOSS_REGISTRY}
