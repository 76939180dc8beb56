"""The article's training script, `train_sql_agent.py qwen|llama`: what it refuses, each before anything starts."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agl
from agl_verl.configuration import compose_config
from agl_verl.keys import at, leaves

EXAMPLE = Path(__file__).parents[3] / "examples" / "sql_agent"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import train_with_verl

    return train_with_verl


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def spider(tmp_path: Path) -> Path:
    """Spider's published layout, with one question about one database."""
    folder = tmp_path / "spider"
    (folder / "database" / "pets").mkdir(parents=True)
    with sqlite3.connect(folder / "database" / "pets" / "pets.sqlite") as connection:
        connection.execute("CREATE TABLE pet(id)")
    connection.close()
    record = {"db_id": "pets", "question": "How many pets?", "query": "SELECT count(*) FROM pet"}
    for name in ("train_spider.json", "dev.json"):
        (folder / name).write_text(json.dumps([record] * 40))
    return folder


@agl.rollout
def agent(task: dict[str, Any], llm: agl.LLM) -> float:
    """Never called here."""
    raise AssertionError


def refuse(script: Any, *given: str) -> str:
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(SystemExit) as caught:
        script.main(agent, given)
    assert sorted(Path.cwd().iterdir()) == before
    return str(caught.value)


def test_its_configuration_is_the_articles(script: Any, article: dict[str, Any], defaults: dict[str, Any]) -> None:
    config = script.verl_config("qwen")
    for path, value in leaves(article):
        if path != "algorithm.use_kl_in_reward":  # VERL's default
            assert at(config, path) == value
    assert script.verl_config("llama")["actor_rollout_ref"]["model"]["path"] == "meta-llama/Llama-3.2-1B-Instruct"
    served = {name: at(compose_config(_known(script.verl_config(name), defaults), defaults), TOOL_PARSER) for name in script.MODELS}
    assert served == {"qwen": "hermes", "llama": "llama3_json"}


TOOL_PARSER = "actor_rollout_ref.rollout.engine_kwargs.vllm.tool_call_parser"


def _known(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What the small part of VERL's configuration that these tests have knows of it."""
    rollout = config["actor_rollout_ref"]["rollout"]
    return {"actor_rollout_ref": {"rollout": {name: rollout[name] for name in ("name", "n", "multi_turn")}}}


def test_a_gated_model_without_a_token_is_told_what_to_do(script: Any, spider: Path) -> None:
    assert refuse(script, "llama", "--data", str(spider)) == (
        "nothing was started: meta-llama/Llama-3.2-1B-Instruct is a gated model and there is no HF_TOKEN: accept its licence at "
        "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct, then set HF_TOKEN to a token of that account, or name a local copy: `--config` "
        "with actor_rollout_ref.model.path"
    )


def test_a_token_or_a_local_copy_is_enough(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script.check_token(str(tmp_path))
    script.check_token(script.MODELS["qwen"])
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    script.check_token(script.MODELS["llama"])


def test_without_data_it_says_where_it_looked_and_where_to_get_it(script: Any) -> None:
    said = refuse(script, "qwen", "--data", "nowhere")
    assert said.startswith("nothing was started: no Spider tasks for split `train` in `nowhere`: looked for train_spider.parquet, ")
    assert "found no such folder. Download and unpack Spider (https://yale-lily.github.io/spider)" in said


@pytest.mark.skipif(importlib.util.find_spec("verl") is not None, reason="VERL is installed here")
def test_without_verl_it_says_what_to_install(script: Any, spider: Path) -> None:
    assert "`agl.VERL` needs VERL (verl>=0.9.1,<0.10), which is not installed" in refuse(script, "qwen", "--data", str(spider))


def test_values_of_a_file_go_before_the_scripts(script: Any) -> None:
    changes = {"data": {"train_batch_size": 8}, "actor_rollout_ref": {"model": {"path": "here"}}}
    found = script.merged(script.verl_config("qwen"), changes)
    assert (found["data"]["train_batch_size"], found["data"]["max_prompt_length"]) == (8, 4096)
    assert found["actor_rollout_ref"]["model"]["override_config"] == {"attn_implementation": "sdpa"}


def test_the_demo_script_hands_qwen_and_llama_over_to_it() -> None:
    command = [sys.executable, str(EXAMPLE / "train_sql_agent.py"), "llama", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("nothing was started: meta-llama/Llama-3.2-1B-Instruct is a gated model and there is no HF_TOKEN")
