"""The math agent of `examples/math_agent` in the OpenAI Agents SDK: its transitions, its prompt, what its model was made from."""

from math_agent_checks import MathAgentChecks


class TestMathAgent(MathAgentChecks):
    framework = "openai_agents"
    prompt = "solver.instructions"
