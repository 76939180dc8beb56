"""The math agent of `examples/math_agent` in AutoGen: its transitions, its prompt, what its model was made from."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from math_agent_checks import MathAgentChecks


@pytest.mark.filterwarnings("ignore:Resolved model mismatch")
class TestMathAgent(MathAgentChecks):
    framework = "autogen"
    prompt = "solver.system_prompt"
