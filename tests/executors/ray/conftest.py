"""A Ray cluster on this machine for the tests, and agents that its workers can import."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).parents[2] / "core" / "workers"))  # the agents of the process executor's tests


@pytest.fixture(scope="session")
def cluster():
    """Ray itself, started once: it takes seconds."""
    import ray

    for left in (2, 1, 0):  # Ray gives its own start half a minute, which a busy machine may not keep
        try:
            ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING")
            break
        except Exception:
            ray.shutdown()
            if not left:
                raise
    yield ray
    ray.shutdown()
