"""Makes an environment with VERL and Ray in it, for the tests of `agl-verl` on a CPU: `python tools/setup_verl.py FOLDER`.

VERL runs on Python 3.10 to 3.12.
"""

from __future__ import annotations

import sys

from environments import Environment, editable, make_named

TESTS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "langchain-openai>=1.1")
PACKAGES = ("core[report]", "plugins/langgraph[instruments]", "algorithms/grpo", "algorithms/verl[verl]", "executors/ray")


def install(environment: Environment) -> None:
    """VERL with its own torch, the packages of this project, and pytest."""
    environment.install_torch()
    environment.install(*TESTS, *editable(PACKAGES))


if __name__ == "__main__":
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        raise SystemExit(f"VERL and AGL together need Python 3.11 or 3.12, this is {sys.version.split()[0]}: make PYTHON=python3.12")
    make_named(__doc__, install, ("algorithms/verl",), __file__)
