"""The math agent of `examples/math_agent` in CrewAI: its transitions, its prompt, what its model was made from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from math_agent_checks import MathAgentChecks


class TestMathAgent(MathAgentChecks):
    framework = "crewai"
    prompt = "math/solver.goal"
