"""The Ray cluster that agents run on: found before anything starts, joined when runners are needed."""

from __future__ import annotations

import os
import socket

import ray

from agl.errors import ConfigError

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own variable: HOST:PORT of the cluster's head. Without it Ray starts on this machine, for this process alone."""
STARTED_HERE = (None, "", "local", "auto")
CONNECT_SECONDS = 5.0
LOOPBACK = ("127.", "localhost", "::1", "[::1]", "0.0.0.0", "[::]")


def check_address() -> None:
    """Refuse a cluster that cannot be reached.

    Raises:
        ConfigError: nobody listens at the address, or it is not that of a cluster's head.
    """
    address = os.environ.get(ADDRESS_VARIABLE)
    if ray.is_initialized() or address in STARTED_HERE:
        return
    host, _, port = str(address).rpartition(":")
    if "://" in str(address) or not host or not port.isdigit():
        raise ConfigError(f"${ADDRESS_VARIABLE} must be HOST:PORT of the cluster's head (`ray status` shows it), given was {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"the Ray cluster at {address} cannot be reached ({error.strerror or error}): start it with `ray start --head` on its first node, or "
            f"unset ${ADDRESS_VARIABLE} for one on this machine alone"
        ) from error


def join() -> bool:
    """Be part of the cluster; whether this process has started or joined it now, and so leaves it in the end.

    Raises:
        ConfigError: Ray does not start, or refuses.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"include_dashboard": False} if os.environ.get(ADDRESS_VARIABLE) in (None, "", "local") else {}
    try:
        ray.init(logging_level="WARNING", **own)
    except Exception as error:  # Ray's own kinds, of several modules
        raise ConfigError(f"Ray did not start: {type(error).__name__}: {error}") from error
    return True


def check_gateway(url: str) -> None:
    """Refuse a gateway that the cluster's other machines cannot call.

    Raises:
        ConfigError: it listens on the loopback, or on no address in particular, and there are other machines.
    """
    here = ray.util.get_node_ip_address()
    others = sorted({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]} - {here})
    host = url.partition("://")[2].rpartition(":")[0]
    if others and host.startswith(LOOPBACK):
        raise ConfigError(
            f"the agents run on {', '.join(others)}, too, and cannot call the gateway at {url}; give the address of this machine that they know: "
            f'`Trainer(host="{here}")`'
        )
