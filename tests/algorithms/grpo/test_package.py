"""The package: naming the algorithm costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import agl_grpo


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, agl_grpo; print(sorted({'torch', 'transformers', 'numpy', 'aiohttp', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        agl_grpo.nothing  # noqa: B018
