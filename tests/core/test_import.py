"""`import agl` is light, and its names are all there."""

import ast
import inspect
import statistics
import subprocess
import sys

import pytest

import agl

HEAVY = ("torch", "langchain", "langchain_core", "langgraph", "openai", "pandas", "numpy", "sqlalchemy", "aiohttp", "rich", "stevedore")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_agl_loads_nothing_heavy():
    assert run(f"import agl, sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_marking_a_function_as_an_agent_loads_nothing_heavy():
    code = "import agl, sys\n@agl.rollout\ndef f(task): return agl.emit_reward(1.0)\n"
    assert run(code + f"print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_importing_agl_takes_less_than_a_fifth_of_a_second():
    seconds = [float(run("import time; t = time.perf_counter(); import agl; print(time.perf_counter() - t)")) for _ in range(5)]
    assert statistics.median(seconds) <= 0.2


def test_every_public_name_has_its_home():
    assert set(agl._HOME) == set(agl.__all__)
    assert all(getattr(agl, name) is not None for name in agl.__all__)
    assert set(agl.__all__) <= set(dir(agl))


def test_the_public_names_are_what_type_checkers_see():
    block = next(node for node in ast.parse(inspect.getsource(agl)).body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(agl.__all__)
    assert len(agl.__all__) == len(set(agl.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module `agl` has no attribute `nothing`"):
        agl.nothing  # noqa: B018


def test_an_unknown_algorithm_is_an_attribute_error_that_names_those_installed():
    with pytest.raises(AttributeError, match="no algorithm is named `nosuch`; there are"):
        agl.NOSUCH  # noqa: B018
    assert not hasattr(agl, "NOSUCH")


class Local:
    pass


def test_an_object_is_recognised_by_the_name_of_its_class_or_a_base():
    assert agl.is_instance_of(Local(), f"{__name__}:Local")
    assert agl.is_instance_of(type("Derived", (Local,), {})(), f"{__name__}:Local", "x:Y")


def test_a_module_matches_as_a_prefix_of_whole_parts():
    cls = type("Graph", (), {"__module__": "framework.graph.state"})
    assert agl.is_instance_of(cls(), "framework:Graph")
    assert agl.is_instance_of(cls(), "framework.graph:Graph")
    assert not agl.is_instance_of(cls(), "frame:Graph")


@pytest.mark.parametrize("value", [print, len, lambda: None, test_an_unknown_name_is_an_attribute_error, Local, None, 3])
def test_plain_functions_and_values_are_instances_of_no_framework(value):
    assert not agl.is_instance_of(value, "langgraph.graph.state:CompiledStateGraph", "langchain_core.runnables:Runnable")
