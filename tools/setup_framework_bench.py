"""Makes the environment in which one framework's agent is trained: `python tools/setup_framework_bench.py PLUGIN`, into `.venv-PLUGIN-grpo`.

The core, the plugin with the newest frameworks that it supports, and native GRPO. Newest frameworks exclude each other, so each has its own.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from setup import ROOT, find_uv, install_torch, run
from setup_plugin import frameworks_of

_MADE_OF = ("pyproject.toml", "core/pyproject.toml", "algorithms/grpo/pyproject.toml")


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin", choices=sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")))
    plugin = parser.parse_args().plugin
    folder = ROOT / f".venv-{plugin}-grpo"
    stamp, wanted = folder / ".agl-setup", fingerprint(plugin)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    uv = find_uv()
    run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install_torch(uv, folder / "bin" / "python")
    own = [argument for source in ("core", f"plugins/{plugin}", "algorithms/grpo") for argument in ("-e", str(ROOT / source))]
    run(uv, "pip", "install", "--quiet", "--python", str(folder), *frameworks_of(plugin), *own)
    stamp.write_text(wanted)


def fingerprint(plugin: str) -> str:
    """What the environment depends on: made again when it changes."""
    files = [*(ROOT / name for name in _MADE_OF), ROOT / "plugins" / plugin / "pyproject.toml", Path(__file__)]
    return f"{sys.version} {hashlib.sha256(''.join(file.read_text() for file in files).encode()).hexdigest()}\n"


if __name__ == "__main__":
    main()
