"""Makes the environments of the gateways that AGL's is measured beside: `python tools/setup_gateway_bench.py PEER …`, each in `.venv-PEER`."""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path

from environments import ROOT, Environment, make

PEERS = {"agentlightning": "agentlightning==1.0.2", "litellm": "litellm[proxy]==1.106.2"}
_REQUIRES = "import importlib.metadata as m, json; print(json.dumps([r for r in m.requires('agentlightning') if 'extra ==' not in r]))"


def main() -> None:
    """Make those that are not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="+", choices=sorted(PEERS))
    for peer in parser.parse_args().peers:
        make(ROOT / f".venv-{peer}", functools.partial(install, peer), [Path(__file__)], about=PEERS[peer], anew=True)


def install(peer: str, environment: Environment) -> None:
    """One peer."""
    if peer == "agentlightning" and sys.version_info < (3, 12):
        # It asks for 3.12; its server runs on 3.11 too, so both sides are measured on the same Python.
        environment.install("--no-deps", "--python-version", "3.12", PEERS[peer])
        environment.install(*requirements(environment))
    else:
        environment.install(PEERS[peer])


def requirements(environment: Environment) -> list[str]:
    """What the Agent Lightning in an environment needs."""
    return json.loads(subprocess.run([environment.python, "-c", _REQUIRES], check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
