"""The vLLM engine on a real vLLM keeps the contract of engines, but for what vLLM does not tell."""

from __future__ import annotations

import pytest
from tiny_vllm import TinyVLLMPolicy, save

from agl.testing.engines import EngineConformance
from agl_grpo.vllm import VLLMEngine

UNTOLD = "vLLM's answers do not tell the version of the weights; the resource does, and calls are held up while they change"


@pytest.fixture(scope="module", autouse=True)
def _server(served, tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("tiny") / "tiny")
    TestVLLMEngine.url = served(folder, "--max-model-len=256", "--logprobs-mode=processed_logprobs")


class TestVLLMEngine(TinyVLLMPolicy, EngineConformance):
    """One server for all checks: each pushes its policy anew."""

    url = ""
    expected_failures = {
        "test_every_answer_tells_its_version": UNTOLD,
        "test_one_version_of_the_weights_samples_a_whole_answer": UNTOLD,
        "test_a_request_that_cannot_be_served_is_refused_clearly": "vLLM leaves unknown roles to the chat template, and answers",
        "test_it_stops_without_a_trace_and_starts_again": "the server is given, and goes on when the engine has stopped",
    }

    def make_engine(self):
        return VLLMEngine(self.url, max_tokens=32)
