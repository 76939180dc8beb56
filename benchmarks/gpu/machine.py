"""The GPU that a check runs on: refused plainly where there is none, and what its result must say of it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 operations per second, by a part of the GPU's name (NVIDIA's data sheets)."""


def require_gpu() -> dict[str, Any]:
    """What the GPU is.

    Raises:
        SystemExit: torch can use none.
    """
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            f"this check needs an NVIDIA GPU; torch {torch.__version__} can use none on this machine. Everything before the first CUDA call went well"
        )
    name = torch.cuda.get_device_name()
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    return {"gpu": name, "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30, "peak_bf16": peak}


def versions(*packages: str) -> dict[str, str | None]:
    """Versions of packages; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def training_flops(parameters: int, tokens: float) -> float:
    """6 · parameters · tokens: forward and backward of a dense model, without attention (arXiv 2001.08361, table 1)."""
    return 6.0 * parameters * tokens


def write(path: Path, result: dict[str, Any]) -> None:
    """One JSON object into a file, and its summary on the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "steps"}), flush=True)
