"""The math agent of `examples/math_agent` in AutoGen: its transitions, its prompt, what its model was made from."""

import pytest
from math_agent_checks import MathAgentChecks


@pytest.mark.filterwarnings("ignore:Resolved model mismatch")
class TestMathAgent(MathAgentChecks):
    framework = "autogen"
    prompt = "solver.system_prompt"
