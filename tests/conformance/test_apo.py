"""APO, with its own search and the reference's, and GEPA keep the contract of algorithms."""

import hashlib

import pytest

import agl
from agl.testing.algorithms import AlgorithmConformance

# One expansion at a time: what arrives first decides what is asked next, and must not depend on chance.
OWN = {"max_rollouts": 40, "probe_tasks": 4, "screen_tasks": 3, "confidence": 0.5, "concurrency": 1}
BEAM = {"strategy": "beam", "beam_rounds": 2, "beam_width": 2, "branch_factor": 2, "val_batch_size": 4, "gradient_batch_size": 2}


async def write(messages):
    """A critic and an editor that always have something new, which depends on what they are asked alone."""
    request = messages[0]["content"]
    new = hashlib.sha256(request.encode()).hexdigest()[:6]
    if "Write the whole prompt anew" in request:
        return f"<prompt>Answer {new}.</prompt>"
    return f"<idea><label>Say {new}</label><why>chance</why><change>{new}</change></idea>"


class OfPrompts(AlgorithmConformance):
    initial_resources = {"prompt": agl.PromptTemplate(template="Answer.")}


class TestRacing(OfPrompts):
    may_return_the_first = True

    def make_algorithm(self):
        return agl.APO(write, **OWN)


class TestBeam(OfPrompts):
    seed = 4  # one with which chance brings a higher mean

    def make_algorithm(self):
        return agl.APO(write, **BEAM)


class TestGepa(OfPrompts):
    may_return_the_first = True

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("gepa")

    def make_algorithm(self):
        return agl.GEPA(write, max_rollouts=80, confidence=0.5)
