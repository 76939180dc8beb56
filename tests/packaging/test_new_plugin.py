"""`agl plugins new` writes packages that install, and whose own tests pass as generated."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from agl.cli import cli
from agl.commands.new import GROUPS, TEMPLATE, names_of
from agl.commands.plugins import plugins
from agl.errors import ConfigError

ROOT = Path(__file__).parents[2]
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")


def new(*arguments):
    """The command; its error as the user sees it."""
    result = CliRunner().invoke(plugins, ["new", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def run(*command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PIP_", "AGL_", "COV_"))}
    done = subprocess.run(command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def pip(*arguments, cwd):
    return run(sys.executable, "-m", "pip", *arguments, *OFFLINE, cwd=cwd, PIP_ROOT_USER_ACTION="ignore")


@pytest.mark.parametrize("kind", GROUPS)
def test_its_tests_pass_as_generated(kind, tmp_path):
    package = tmp_path / f"agl-my-{kind}"
    new(f"my-{kind}", "--kind", kind, "--out", package)
    pip("install", "--target", str(tmp_path / "site"), str(package), cwd=tmp_path)
    place = {"PYTHONPATH": str(tmp_path / "site")}
    shown = run(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestDeprecationWarning", cwd=package, **place
    )
    assert " passed" in shown
    assert "failed" not in shown


@pytest.mark.parametrize("kind", GROUPS)
def test_it_is_written_in_the_style_of_the_project(kind, tmp_path):
    new(f"my-{kind}", "--kind", kind, "--out", tmp_path / "new")
    style = ("--line-length", "140", "--isolated", "--config", "src=['src', 'tests']", ".")
    run(
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        "E,F,I,B,UP",
        "--config",
        "lint.isort.known-third-party=['agl']",
        *style,
        cwd=tmp_path / "new",
    )
    run(sys.executable, "-m", "ruff", "format", "--check", "--line-length", "140", "--isolated", ".", cwd=tmp_path / "new")


@pytest.mark.parametrize("kind", GROUPS)
def test_what_is_to_be_filled_in_is_marked_and_nothing_of_the_template_is_left(kind, tmp_path):
    new(f"my-{kind}", "--kind", kind, "--out", tmp_path / "new")
    files = {path.relative_to(tmp_path / "new"): path.read_text() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert any("fill in" in text for path, text in files.items() if path.suffix == ".py" and "src" in path.parts)
    assert [path for path, text in files.items() if "[%" in text or "[[ " in text.replace("[[tool", "")] == []
    assert {"pyproject.toml", "README.md", ".gitignore", "test.yml", "test_conformance.py", "py.typed"} <= {path.name for path in files}


def test_names_follow_from_one_with_or_without_the_prefix():
    names = names_of("my-own-framework", "framework")
    assert names == ("My Own Framework", "agl-my-own-framework", "agl_my_own_framework", "my_own_framework", "MyOwnFramework")
    assert names_of("agl-my-own-framework", "framework") == names


@pytest.mark.parametrize("name", ["", "My Framework", "my_framework", "3d", "-x", "x-", "a--b", "../x", "agl-", "über"])
def test_a_name_that_no_package_can_have_is_refused(name):
    with pytest.raises(ConfigError, match="cannot name a package: small letters, digits and single hyphens"):
        names_of(name, "framework")


def test_a_name_that_is_nearly_right_gets_a_proposal():
    with pytest.raises(ConfigError, match="did you mean `my-framework`"):
        names_of("My_Framework", "framework")


@pytest.mark.parametrize(
    ("name", "kind", "owner"), [("core", "reward", "agl-core"), ("sqlite", "store", "agl-core"), ("credit", "framework", "agl-core")]
)
def test_a_name_that_is_taken_is_refused(name, kind, owner):
    with pytest.raises(ConfigError, match=f"is there already, from .*{owner}"):
        names_of(name, kind)


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already and is not overwritten"):
        new("my-framework", "--out", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_without_copier_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "copier", None)
    with pytest.raises(ConfigError, match=r"pip install 'agl-core\[new\]'"):
        new("my-framework", "--out", tmp_path / "new")


def test_it_needs_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    new("my-framework", "--out", tmp_path / "new")
    assert (tmp_path / "new" / "pyproject.toml").exists()


def test_it_says_what_to_type_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'cd agl-my-reward\n    pip install -e ".[test]"\n    pytest' in new("my-reward", "--kind", "reward")


def test_the_command_line_shows_the_error_as_one_line(tmp_path):
    from agl.plugins import Plugins

    loaded = Plugins()
    loaded.register_commands(cli)
    shown = CliRunner().invoke(cli, ["plugins", "new", "My Framework"], obj=loaded)
    assert shown.exit_code == 1
    assert shown.output.startswith("Error: `My Framework` cannot name a package")


def test_the_wheel_of_the_core_holds_the_whole_template(tmp_path):
    pip("wheel", "--wheel-dir", str(tmp_path), str(ROOT / "core"), cwd=tmp_path)
    [wheel] = tmp_path.glob("agl_core-*.whl")
    files = {f"agl/templates/plugin/{path.relative_to(TEMPLATE).as_posix()}" for path in TEMPLATE.rglob("*") if path.is_file()}
    assert len(files) > 15
    assert files <= set(zipfile.ZipFile(wheel).namelist())
