"""Makes an environment for the example algorithm and the SQL agent that it trains: `python tools/setup_best_of_n.py FOLDER`."""

from __future__ import annotations

from environments import Environment, editable, make_named

PACKAGES = ("core", "plugins/langgraph", "algorithms/grpo", "examples/plugins/agl-best-of-n[sql-agent,test]")


def install(environment: Environment) -> None:
    """The packages, with what the SQL agent and the tests need."""
    environment.install_torch()
    environment.install(*editable(PACKAGES))


if __name__ == "__main__":
    make_named(__doc__, install, PACKAGES, __file__)
