"""The package: naming the algorithm needs neither VERL nor Ray nor torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import agl
from agl.errors import ConfigError


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, agl_verl; print(sorted({'torch', 'ray', 'verl', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_algorithm_is_found_by_its_name() -> None:
    assert agl.VERL.name == "verl"


def test_without_the_package_its_name_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr("agl.registry.drivers", lambda group: {})
    with pytest.raises(
        AttributeError, match=r"module `agl` has no attribute `VERL`: no algorithm is named `verl`; .*`pip install agl-verl` brings it"
    ):
        _ = agl.VERL


@pytest.mark.skipif(importlib.util.find_spec("verl") is not None, reason="VERL is installed here")
def test_without_verl_the_error_says_what_to_install() -> None:
    with pytest.raises(
        ConfigError, match=r'`agl.VERL` needs VERL \(verl>=0.9.1,<0.10\), which is not installed: .* `pip install "agl-verl\[vllm\]"'
    ):
        agl.VERL({"data": {"train_batch_size": 4}})


def test_the_supported_range_stands_in_the_metadata() -> None:
    asked = importlib.metadata.requires("agl-verl") or []
    assert 'verl<0.10,>=0.9.1; extra == "verl"' in [item.replace("'", '"') for item in asked]


def test_the_runs_of_verl_are_named_beside_the_other_tests_and_not_within_a_folder_that_is_named_too() -> None:
    """pytest 9 takes a folder within another for named already, and `norecursedirs` then leaves it out."""
    makefile = Path(__file__).parents[3] / "Makefile"
    [line] = re.findall(r"setup_verl\.py .*/pytest (.*?) -W", makefile.read_text())
    named = line.split()
    assert "tests/algorithms/verl/on_cpu" in named
    assert not [one for one in named for other in named if one.startswith(f"{other}/")]
