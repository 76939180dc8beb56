"""The embedded model is an ordinary Hugging Face directory, small, with its origin written down."""

import json
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from data import Task, make_splits  # noqa: E402
from sandbox import read_schema  # noqa: E402
from sql_agent import rewrite_messages, write_messages  # noqa: E402

MODEL = Path(__file__).parents[2] / "examples" / "sql_agent" / "model"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    return make_splits(tmp_path_factory.mktemp("databases")).test


def _ids(tokenizer: Any, messages: list[Any]) -> list[int]:
    roles = {"system": "system", "human": "user"}
    chat = [{"role": roles[message.type], "content": message.content} for message in messages]
    return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])


def test_the_directory_is_small_and_says_how_it_was_made() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 10_000_000
    record = json.loads((MODEL / "made_by.json").read_text())
    assert record["command"].startswith("python examples/sql_agent/make_model.py --examples")
    assert "--seed" in record["command"]


def test_the_model_loads_and_has_between_half_a_million_and_two_million_parameters() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    assert 500_000 < model.num_parameters() < 2_000_000
    assert model.config.max_position_embeddings >= 512


def test_a_turn_ends_with_the_end_token(tokenizer: Any) -> None:
    config = json.loads((MODEL / "generation_config.json").read_text())
    assert tokenizer.convert_ids_to_tokens(config["eos_token_id"]) == tokenizer.eos_token == "<|im_end|>"


def test_every_digit_is_a_token_of_its_own(tokenizer: Any) -> None:
    assert [token for token in tokenizer.tokenize("age >= 1984") if token[-1].isdigit()] == ["1", "9", "8", "4"]


def test_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = "SELECT name FROM singer WHERE city = 'Ashford' AND näh >= 10; -- 你好\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_write_prompt_is_at_most_120_tokens_long(tokenizer: Any, tasks: list[Task]) -> None:
    prompts = [_ids(tokenizer, write_messages(task["question"], read_schema(task["db_path"]))) for task in tasks]
    assert max(map(len, prompts)) <= 120
    assert tokenizer.decode(prompts[0]).endswith("<|im_start|>assistant\n")


def test_the_longest_rewrite_prompt_leaves_room_for_the_reply(tokenizer: Any, tasks: list[Task]) -> None:
    task = tasks[0]
    messages = rewrite_messages(
        task["question"], read_schema(task["db_path"]), "SELECT " + "x" * 80, "Error: " + "x" * 53, "INCORRECT: error"
    )
    assert len(_ids(tokenizer, messages)) + 64 < 512
