"""The native engine keeps its contract, and the kit finds engines that do not, by name."""

import contextlib

import pytest
from tiny_policy import TinyPolicy

from agl.testing.engines import EngineConformance
from agl.testing.expected import checks_of, failing
from agl_grpo.native import NativeEngine


class Tiny(TinyPolicy, EngineConformance):
    def make_engine(self):
        return NativeEngine(threads=1, max_tokens=32)


class TestNativeEngine(Tiny):
    pass


class Retokenises(NativeEngine):
    """Makes the ids again from the text."""

    async def start(self, policy):
        endpoint = await super().start(policy)
        choice = self._server._choice
        self._server._choice = lambda chat, index, answer, name: self._again(choice(chat, index, answer, name), policy.tokenizer)
        return endpoint

    def _again(self, choice, tokenizer):
        return {**choice, "token_ids": tokenizer.encode(choice["message"]["content"], add_special_tokens=False)}


class TellsOtherLogprobs(NativeEngine):
    """Tells the log-probabilities of another temperature."""

    async def start(self, policy):
        endpoint = await super().start(policy)
        told = self._server._logprobs
        self._server._logprobs = lambda ids, logprobs, top: told(ids, [logprob * 0.9 for logprob in logprobs], top)
        return endpoint


class NeverPauses(NativeEngine):
    """Goes on sampling while the weights change."""

    def paused(self, timeout=600.0):
        return contextlib.nullcontext()


class ForgetsItsSeed(NativeEngine):
    """Samples anew, whatever the seed."""

    async def start(self, policy):
        endpoint = await super().start(policy)
        rows = self._sampler._rows
        self._sampler._rows = lambda ids, sampling, streamed: rows(ids, type(sampling)(max_tokens=sampling.max_tokens), streamed)
        return endpoint


class TellsTheFirstVersion(NativeEngine):
    """Changes its name with the first weights and never again."""

    async def update(self, version):
        pass


class StreamsTwice(NativeEngine):
    """Samples for a stream with another seed."""

    async def start(self, policy):
        endpoint = await super().start(policy)
        stream, sampler = self._sampler.stream, self._sampler
        sampler.stream = lambda ids, sampling: stream(ids, type(sampling)(max_tokens=sampling.max_tokens, n=sampling.n, seed=77))
        return endpoint


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Retokenises, "test_answers_tell_the_ids_that_were_sampled_with_their_logprobs"),
        (TellsOtherLogprobs, "test_answers_tell_the_ids_that_were_sampled_with_their_logprobs"),
        (NeverPauses, "test_nothing_is_sampled_in_a_pause"),
        (NeverPauses, "test_one_version_of_the_weights_samples_a_whole_answer"),
        (ForgetsItsSeed, "test_a_seed_repeats_its_answer"),
        (TellsTheFirstVersion, "test_every_answer_tells_its_version"),
        (StreamsTwice, "test_streaming_gives_the_same_as_not_streaming"),
    ],
)
def test_a_broken_engine_is_caught_by_name(broken, check):
    kit = type("Broken", (Tiny,), {"make_engine": lambda self: broken(threads=1, max_tokens=32)})
    found = failing(kit, only=(check,))
    assert list(found) == [check]
    assert found[check].startswith("ConformanceError: ")


def test_every_check_says_what_is_wrong_when_it_fails():
    for name in checks_of(EngineConformance):
        assert getattr(EngineConformance, name).__doc__.startswith("If this fails, ")
