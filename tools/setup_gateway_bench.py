"""Makes the environments of the gateways that AGL's is measured beside: `python tools/setup_gateway_bench.py PEER …`, each in `.venv-PEER`."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from setup import ROOT, find_uv, run

PEERS = {"agentlightning": "agentlightning==1.0.2", "litellm": "litellm[proxy]==1.106.2"}
_REQUIRES = "import importlib.metadata as m, json; print(json.dumps([r for r in m.requires('agentlightning') if 'extra ==' not in r]))"


def main() -> None:
    """Make those that are not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="+", choices=sorted(PEERS))
    for peer in parser.parse_args().peers:
        make(peer)


def make(peer: str) -> None:
    """One environment."""
    folder = ROOT / f".venv-{peer}"
    stamp, wanted = folder / ".agl-setup", f"{sys.version} {PEERS[peer]}\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    uv = find_uv()
    run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install = (uv, "pip", "install", "--quiet", "--python", str(folder))
    if peer == "agentlightning" and sys.version_info < (3, 12):
        # It asks for 3.12; its server runs on 3.11 too, so both sides are measured on the same Python.
        run(*install, "--no-deps", "--python-version", "3.12", PEERS[peer])
        run(*install, *requirements(folder))
    else:
        run(*install, PEERS[peer])
    stamp.write_text(wanted)


def requirements(folder: Path) -> list[str]:
    """What the Agent Lightning in an environment needs."""
    python = folder / "bin" / "python"
    return json.loads(subprocess.run([python, "-c", _REQUIRES], check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
