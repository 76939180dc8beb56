"""A tiny random model in a folder, hand-made rows and groups: everything here runs on one core in seconds, without a download."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from agl import RolloutResult, Row
from agl.rewards import make_reward
from agl.rollouts import Attempt, AttemptStatus, Failure, Rollout
from agl.tasks import Task
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>{% endif %}"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers whose tokens are bytes; ids 0, 1, 2 are special."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {
        text: index for index, text in enumerate(["<|pad|>", "<|start|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    config = LlamaConfig(**sizes, max_position_embeddings=256, initializer_range=0.1, eos_token_id=2, pad_token_id=0, bos_token_id=None)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    def make(rollout_id: str, token_ids: Sequence[int], trained: Sequence[int]) -> Row:
        """A row in which the places `trained` are learned from."""
        mask = tuple(place in trained for place in range(len(token_ids)))
        owners = tuple(0 if on else -1 for on in mask)
        zeros = (0.0,) * len(mask)
        return Row(rollout_id=rollout_id, token_ids=tuple(token_ids), mask=mask, logprobs=zeros, owners=owners, transitions=())

    return make


@pytest.fixture(scope="session")
def make_group() -> Callable[..., list[RolloutResult]]:
    def make(*rewards: float | None, failures: Sequence[int] = ()) -> list[RolloutResult]:
        """A group's rollouts with these rewards; the rollouts at the places `failures` ended with an exception of the agent."""
        task = Task(task_id="t", data={})
        results = []
        for index, reward in enumerate(rewards):
            failed = index in failures
            status = AttemptStatus.FAILED if failed else AttemptStatus.SUCCEEDED
            name = f"r{index}"
            attempt = Attempt(
                attempt_id="a", rollout_id=name, number=1, worker_id="w", status=status, failure=Failure.AGENT if failed else None
            )
            rollout = Rollout(rollout_id=name, run_id="run", task=task, group_id="0-train-0", sample=index, attempt=attempt)
            given = () if reward is None else (make_reward(reward, source="test"),)
            results.append(RolloutResult(rollout=rollout, rewards=given))
        return results

    return make
