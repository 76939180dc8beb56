"""Malformed requests in every dialect; `make fuzz-gateway` sends 10,000 of them."""

import runpy
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "tools" / "fuzz_gateway.py"


@pytest.mark.filterwarnings("ignore:.*:hypothesis.errors.HypothesisWarning")
def test_no_malformed_request_breaks_the_gateway_or_loses_its_span():
    told = runpy.run_path(str(FUZZ))["fuzz"](400, 2)
    assert (told["requests"], told["calls"] > 10) == (400, True)
