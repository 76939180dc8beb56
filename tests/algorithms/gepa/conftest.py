"""GEPA is tested with the agent and the scripted endpoints of APO's tests."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("gepa", reason="gepa is not installed here: it is part of `make setup-dev`")

sys.path.insert(0, str(Path(__file__).parents[1] / "apo"))  # `apo_agent`
