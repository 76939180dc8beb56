"""The page from laptop to cluster: its script is read, and what it promises is in the code. With VERL installed `make test-verl` runs its dry run."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from agl.errors import ConfigError
from agl_verl.advantages import ESTIMATORS
from agl_verl.configuration import LOSSES, SUPPORTED
from agl_verl.keys import OWNED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from-laptop-to-cluster.md").read_text()


def extras(folder):
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.skipif(importlib.util.find_spec("verl") is not None, reason="VERL is installed here")
def test_without_verl_the_script_says_what_to_install():
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(compile(code, "docs/from-laptop-to-cluster.md", "exec"), names)
    with pytest.raises(ConfigError, match=r"`agl.VERL` needs VERL"):
        names["train"](dry_run=True)


def test_what_it_installs_exists():
    asked = set(re.findall(r'"([a-z-]+)\[([a-z]+)\]"', PAGE))
    assert asked == {("agl", "verl"), ("agl-verl", "vllm"), ("agl-verl", "verl")}
    assert "verl" in extras(".")
    assert {"verl", "vllm"} <= extras("algorithms/verl").keys()


def test_the_range_of_verl_is_the_packages():
    assert SUPPORTED in extras("algorithms/verl")["verl"]
    assert f"| `verl` | `{SUPPORTED.removeprefix('verl')}` |" in PAGE


def test_it_names_every_estimator_every_loss_and_keys_that_agl_decides():
    assert [name for name in (*ESTIMATORS, *LOSSES) if f"`{name}`" not in PAGE] == []
    assert {"trainer.resume_mode", "actor_rollout_ref.rollout.agent"} <= OWNED.keys()


def test_its_make_target_and_folders_exist():
    assert "\ntest-verl:" in (ROOT / "Makefile").read_text()
    assert (ROOT / "benchmarks" / "gpu" / "README.md").exists()
