"""The math agent of `examples/math_agent` in CrewAI: its transitions, its prompt, what its model was made from."""

from math_agent_checks import MathAgentChecks


class TestMathAgent(MathAgentChecks):
    framework = "crewai"
    prompt = "math/solver.goal"
