"""What every script that makes an environment shares: it is made when it must be, and only then."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environments(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import environments

    ran = []

    def run(*command, check=True):
        ran.append(command[1:])
        if command[1] == "venv":
            python = Path(command[-1]) / environments.PLACE / "python"
            python.parent.mkdir(parents=True)
            python.touch()
        return True

    monkeypatch.setattr(environments, "run", run)
    monkeypatch.setattr(environments, "find_uv", lambda: "uv")
    environments.ran = ran
    yield environments
    sys.modules.pop("environments", None)


@pytest.fixture
def made_of(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text("1")
    return file


def install(environment):
    environment.install("a", "b")


def test_it_is_made_once_and_again_when_what_it_is_made_of_has_changed(environments, tmp_path, made_of):
    folder = tmp_path / "env"
    environments.make(folder, install, [made_of])
    python = str(folder / environments.PLACE / "python")
    pip = ("pip", "install", "--quiet", "--python", python, "a", "b")
    assert environments.ran == [("venv", "--quiet", "--python", sys.executable, str(folder)), pip]
    environments.make(folder, install, [made_of])
    assert len(environments.ran) == 2
    made_of.write_text("2")
    environments.make(folder, install, [made_of])
    assert environments.ran[2:] == [pip]  # into the environment that is there
    environments.make(folder, install, [made_of], about="group dev")
    assert len(environments.ran) == 4


def test_one_that_is_made_anew_keeps_nothing(environments, tmp_path, made_of):
    folder = tmp_path / "env"
    environments.make(folder, install, [made_of], anew=True)
    (folder / "old").touch()
    environments.make(folder, install, [made_of], anew=True)
    assert (folder / "old").exists()
    environments.make(folder, install, [made_of], anew=True, reuse=False)
    assert not (folder / "old").exists()
    assert [command[0] for command in environments.ran] == ["venv", "pip"] * 2


def test_one_that_could_not_be_filled_is_filled_the_next_time(environments, tmp_path, made_of):
    def fails(environment):
        raise SystemExit("failed: uv")

    folder = tmp_path / "env"
    with pytest.raises(SystemExit):
        environments.make(folder, fails, [made_of])
    environments.make(folder, install, [made_of])
    assert [command[0] for command in environments.ran] == ["venv", "pip"]


def test_a_script_without_its_folder_says_how_it_is_called(environments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["setup_x.py"])
    with pytest.raises(SystemExit):
        environments.make_named("Makes x.", install, ["core"])
    assert "usage: setup_x.py [-h] folder" in capsys.readouterr().err


def test_packages_are_installed_with_their_extras_and_watched_without(environments):
    assert environments.editable(["core[report]"]) == ["-e", f"{ROOT}/core[report]"]
    assert environments.pyproject_of("core[report]") == ROOT / "core" / "pyproject.toml"
