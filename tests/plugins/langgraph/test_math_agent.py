"""The math agent of `examples/math_agent` in LangGraph: its transitions, its prompt, what its model was made from."""

from math_agent_checks import MathAgentChecks


class TestMathAgent(MathAgentChecks):
    framework = "langgraph"
    prompt = "solver.system_prompt"
