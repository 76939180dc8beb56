"""What is installed is found wherever Python finds it, and the first of a name counts."""

import importlib.metadata
import sys
import zipfile
from importlib.machinery import PathFinder

import pytest

from agl.installed import Installed


def info(name, version, group="agl"):
    return {
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/entry_points.txt": f"[{group}]\nplugin = module\n",
    }


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Puts files into a folder or an archive that comes first on the path."""

    def make(files, archive=None):
        place = tmp_path / (archive or f"folder-{len(list(tmp_path.iterdir()))}")
        if archive:
            with zipfile.ZipFile(place, "w") as opened:
                for name, text in files.items():
                    opened.writestr(name, text)
        else:
            for name, text in files.items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_text(text)
        monkeypatch.syspath_prepend(str(place))
        return place

    return make


def names(group="agl"):
    return {dist.name for dist in Installed().with_entry_points(group)}


def test_it_finds_what_the_standard_library_finds():
    theirs = {dist.name for dist in importlib.metadata.distributions() if "console_scripts" in {entry.group for entry in dist.entry_points}}
    assert {
        dist.name for dist in Installed().with_entry_points("console_scripts") if dist.entry_points.select(group="console_scripts")
    } == theirs
    assert Installed().version("pluggy") == importlib.metadata.version("pluggy")


def test_folders_archives_and_old_metadata_count(on_path):
    on_path(info("in_folder", "1.0"))
    on_path(info("in_archive", "2.0"), archive="some.zip")
    on_path({"old.egg-info/PKG-INFO": "Name: old\nVersion: 0.5\n", "old.egg-info/entry_points.txt": "[agl]\nplugin = module\n"})
    on_path({"plain-3.0.egg-info": "Name: plain\nVersion: 3.0\n"})
    assert {"in_folder", "in_archive", "old"} <= names()
    assert [Installed().version(name) for name in ("In.Folder", "in-archive", "old", "plain", "nothing")] == [
        "1.0",
        "2.0",
        "0.5",
        "3.0",
        None,
    ]


def test_the_first_of_a_name_hides_the_others(on_path):
    on_path(info("twice", "1.0"))
    on_path(info("twice", "2.0", group="other"))
    assert "twice" not in names()
    assert Installed().version("twice") == "2.0"


def test_a_path_that_does_not_exist_is_passed_over(monkeypatch):
    monkeypatch.syspath_prepend("nowhere-at-all")
    assert "agl-core" in names()


def test_a_finder_of_another_package_is_asked(on_path, monkeypatch):
    place = on_path(info("hidden", "1.0"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(place)])

    class Finder:
        def find_distributions(self, context):
            return PathFinder.find_distributions(importlib.metadata.DistributionFinder.Context(path=[str(place)]))

        def find_spec(self, *given):
            return None

    assert "hidden" not in names()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert "hidden" in names()
