"""The workspace's distributions fit together, and no file of the project knows the machine that it was written on."""

import ast
import importlib
import importlib.metadata
import importlib.util
import subprocess
import tomllib
from pathlib import Path

import pytest

import agl

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(
    path for folder in (".", "core", "plugins/*", "algorithms/*", "executors/*") for path in ROOT.glob(f"{folder}/pyproject.toml")
)
LONGEST = 800
# Put together here, so that this file does not hold them itself.
MACHINE_PATHS = tuple("/" + name + "/" for name in ("work", "tmp", "root", "home/user"))


def project(path):
    return tomllib.loads(path.read_text())["project"]


def ids(path):
    return str(path.relative_to(ROOT).parent)


def files():
    """Text files of the project: tracked, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        try:
            yield name, path.read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


@pytest.mark.parametrize("path", PROJECTS, ids=ids)
def test_every_distribution_has_the_version_of_the_core(path):
    assert project(path)["version"] == agl.__version__


@pytest.mark.parametrize("path", PROJECTS, ids=ids)
def test_distributions_ask_for_each_other_in_a_compatible_version(path):
    mine = {project(other)["name"] for other in PROJECTS}
    extras = [needed for group in project(path).get("optional-dependencies", {}).values() for needed in group]
    for needed in [*project(path).get("dependencies", []), *extras]:
        name = needed.split("[")[0].split("~")[0].split(">")[0].split("=")[0].strip()
        if name in mine:
            assert needed.endswith(f"~={agl.__version__}")


@pytest.mark.parametrize("path", PROJECTS, ids=ids)
def test_every_declared_entry_point_is_there(path):
    declared = project(path)
    groups = {**declared.get("entry-points", {}), "console_scripts": declared.get("scripts", {})}
    for group, entries in groups.items():
        for name, target in entries.items():
            package = target.split(":")[0].split(".")[0]
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed here")
            try:
                importlib.metadata.EntryPoint(name, target, group).load()
            except ModuleNotFoundError as missing:
                if missing.name and not missing.name.startswith("agl"):
                    pytest.skip(f"{target} needs {missing.name}")
                raise


@pytest.mark.parametrize("path", PROJECTS, ids=ids)
def test_every_distribution_has_a_readme_a_licence_and_a_typed_package(path):
    declared = project(path)
    assert declared["license"] == "MIT"
    assert declared["requires-python"] == ">=3.11"
    assert (path.parent / declared["readme"]).exists()
    for package in (path.parent / "src").glob("agl*"):
        assert (package / "py.typed").exists()


def test_folders_that_only_hold_packages_are_none_themselves():
    for folder in ("core", "plugins", "plugins/langgraph", "algorithms", "algorithms/grpo", "executors", "executors/ray", "tests"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    found = [f"{name}: {line.strip()}" for name, text in files() for line in text.splitlines() for path in MACHINE_PATHS if path in line]
    assert found == []


def test_no_file_of_code_or_prose_is_too_long():
    lines = {name: text.count("\n") for name, text in files() if name.endswith((".py", ".md"))}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_every_module_of_the_core_says_what_it_is_for():
    modules = sorted((ROOT / "core" / "src").rglob("*.py"))
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in modules}
    assert [name for name, tree in trees.items() if tree.body and ast.get_docstring(tree) is None] == []
