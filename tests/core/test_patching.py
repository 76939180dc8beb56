"""A table of patches is applied whole or not at all, leaves what was there when undone, and says what no longer fits."""

import sys
import types

import pytest

from agl.errors import PluginError
from agl.patching import Patch, Patches


@pytest.fixture
def library(monkeypatch):
    """A library with a base class, a class that inherits from it, and a function."""

    class Base:
        def call(self, url, *, body=None):
            return f"{url} {body}"

    class Client(Base):
        def own(self):
            return "own"

        @staticmethod
        def fixed():
            return "fixed"

    module = types.ModuleType("patched_library")
    module.Base, module.Client, module.top, module.value = Base, Client, lambda: "top", 3
    monkeypatch.setitem(sys.modules, "patched_library", module)
    return module


def loud(original):
    def replacement(*args, **kwargs):
        return f"<{original(*args, **kwargs)}>"

    return replacement


def patch(target, **values):
    return Patch(f"patched_library:{target}", "calls are loud", loud, **values)


def test_methods_inherited_methods_and_functions_are_replaced_and_given_back(library):
    before = dict(vars(library.Client)), library.top, library.Client.own
    patches = Patches("mine", [patch("Client.call"), patch("Client.own"), patch("top")])
    patches.apply()
    patches.apply()
    client = library.Client()
    assert patches.applied
    assert (client.call("u", body=1), client.own(), library.top()) == ("<u 1>", "<own>", "<top>")
    assert library.Base().call("u") == "u None"
    assert library.Client.own.__wrapped__ is before[2]
    patches.undo()
    patches.undo()
    assert not patches.applied
    assert (dict(vars(library.Client)), library.top, library.Client.own) == before
    assert "call" not in vars(library.Client)


def test_what_another_library_wrapped_since_is_left_in_place(library):
    patches = Patches("mine", [patch("Client.own"), patch("top")])
    patches.apply()
    theirs = library.Client.own = loud(library.Client.own)
    patches.undo()
    assert library.Client.own is theirs
    assert library.top() == "top"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (patch("Client.gone"), r"`patched_library:Client.gone` \(replaced so that calls are loud\) is gone"),
        (patch("Gone.call"), "is gone"),
        (Patch("no_such_library:call", "x", loud), "is gone"),
        (patch("value"), "no longer a plain function but 3"),
        (patch("Client.fixed"), "no longer a plain function"),
        (patch("Client.call", parameters=("url", "body", "headers")), r"has no parameters \['headers'\] any more"),
    ],
)
def test_a_target_that_is_not_what_it_was_is_refused_and_nothing_is_changed(library, row, says):
    top = library.top
    with pytest.raises(PluginError, match=f"plugin `mine` cannot patch .*{says}.*pip install 'patched>=1,<2'"):
        Patches("mine", [patch("top"), row], supported="patched>=1,<2").apply()
    assert library.top is top


def test_a_plugins_own_canary_is_asked_too(library):
    patches = Patches("mine", [patch("top")], canary=lambda: ["`Options` has no field `url`"])
    with pytest.raises(PluginError, match="`Options` has no field `url`"):
        patches.check()
    assert library.top() == "top"


def test_the_error_names_the_installed_version():
    with pytest.raises(PluginError, match=r"cannot patch msgspec \d+\.\d+"):
        Patches("mine", [Patch("msgspec:gone", "x", loud)]).check()


def test_a_library_that_is_not_imported_yet_is_patched_as_soon_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "late_library.py").write_text("def top():\n    return 'top'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    patches = Patches("mine", [Patch("late_library:top", "calls are loud", loud)])
    patches.apply_when_imported()
    patches.apply_when_imported()
    assert not patches.applied
    assert "late_library" not in sys.modules
    import late_library

    assert (late_library.top(), patches.applied) == ("<top>", True)
    patches.undo()
    assert late_library.top() == "top"
    patches.apply_when_imported()
    assert late_library.top() == "<top>"
    patches.undo()
    del sys.modules["late_library"]


def test_what_no_longer_fits_is_told_by_target(library):
    patches = Patches("mine", [patch("top"), patch("Client.gone"), patch("Client.call", parameters=("path",))])
    problems = patches.problems()
    assert list(problems) == ["patched_library:Client.gone", "patched_library:Client.call"]
    assert "has no parameters ['path'] any more" in problems["patched_library:Client.call"]
    assert Patches("mine", [patch("top")], canary=lambda: ["no `url`", "no `body`"]).problems() == {"canary": "no `url`; no `body`"}
