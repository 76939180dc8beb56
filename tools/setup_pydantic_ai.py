"""Makes an environment with the newest Pydantic AI in it, for the example plugin's tests: `python tools/setup_pydantic_ai.py FOLDER`."""

from __future__ import annotations

from environments import Environment, editable, make_named

PACKAGES = ("core", "examples/plugins/agl-pydantic-ai[test]")


def install(environment: Environment) -> None:
    """The core and the example with what its tests need."""
    environment.install(*editable(PACKAGES))


if __name__ == "__main__":
    make_named(__doc__, install, PACKAGES, __file__)
