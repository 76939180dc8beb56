"""URLs of stores: no message, record or `repr` shows a password; what they need is said before a server is asked."""

import subprocess
import sys

import pytest

import agl
from agl.errors import StoreError
from agl.store.opening import open_store, path_of, without_passwords
from agl.store.urls import StoreURL, without_password

PLACE = "postgresql://me@127.0.0.1:1/runs"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:secret@127.0.0.1:1/runs", PLACE),
        ("postgresql://me@127.0.0.1:1/runs", PLACE),
        ("postgresql://me:se:cret@127.0.0.1:1/runs", PLACE),
        ("postgresql://me:se/cret@127.0.0.1:1/runs", PLACE),
        ("postgresql://me:se@cret@127.0.0.1:1/runs", PLACE),
        ("postgresql://me:se?cret@127.0.0.1:1/runs", PLACE),
        ("postgresql://127.0.0.1:1/runs?user=me&password=secret&sslmode=require", "postgresql://127.0.0.1:1/runs?user=me&sslmode=require"),
        ("postgresql://me@127.0.0.1:1/runs?sslPassword=secret", PLACE),
        ("postgresql:///runs?host=/run/postgresql", "postgresql:///runs?host=/run/postgresql"),
        ("postgresql://", "postgresql://"),
        ("a/b@c.sqlite", "a/b@c.sqlite"),
    ],
)
def test_a_url_is_shown_without_its_password(given, shown):
    assert without_password(given) == shown
    assert repr(StoreURL(given)) == repr(shown)
    assert StoreURL(given) == given


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me@host/db"),
        ("--store=postgresql+psycopg://me:secret@host/db", "--store=postgresql+psycopg://me@host/db"),
        ("train('postgresql://me:secret@host/db')", "train('postgresql://me@host/db')"),
        ("http://me:secret@host/v1", "http://me:secret@host/v1"),  # of an endpoint, which `--resume` could not give back
        ("runs.sqlite", "runs.sqlite"),
    ],
)
def test_a_runs_command_line_is_kept_without_the_stores_password(argument, kept):
    assert without_passwords(argument) == kept


def test_a_trainers_store_is_its_url_whose_repr_has_no_password():
    url = "postgresql://me:secret@127.0.0.1:1/runs"
    trainer = agl.Trainer(store=url, quiet=True)
    assert trainer.store == url
    assert "secret" not in repr(trainer.store)


def test_a_database_is_no_path():
    assert path_of("postgresql") is None
    assert path_of("postgresql://127.0.0.1/runs") is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/runs",
            r"store `postgresql://me@127.0.0.1:1/runs` cannot be reached: .*Connection refused; is the server running",
        ),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/runs", r"store `postgresql\+psycopg://me@127.0.0.1:1/runs` cannot be reached"),
        ("postgresql://me:secret@127.0.0.1:port/runs", r"`postgresql://me@127.0.0.1:port/runs` is no URL of a store: it must be"),
        ("postgresql://me:half@secret@127.0.0.1:1/runs", r"in user and password with `%40` for `@`"),
        ("postgresql://me:secret@127.0.0.1/runs?secrets=1", r"store .* invalid connection option \"secrets\""),
        ("postgresql+asyncpg://me:secret@127.0.0.1/runs", r"asks for another driver than psycopg 3; write `postgresql://"),
    ],
)
def test_what_cannot_be_opened_is_a_store_error_without_the_password(url, said):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=said) as caught:
        open_store(url)
    error = caught.value
    while error is not None:  # a traceback shows all of them
        assert "secret@" not in str(error)
        assert ":secret" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_without_psycopg_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r'store `postgresql://me@host/runs` needs psycopg 3.*: pip install "agl-core\[postgresql\]"'):
        open_store("postgresql://me:secret@host/runs")


def test_psycopg_is_imported_when_such_a_store_is_opened_and_not_before(tmp_path):
    code = (
        "import sys, agl.store.postgresql; from agl.store.opening import open_store\n"
        "open_store(sys.argv[1]).close()\n"
        "print('psycopg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.sqlite")], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_scheme_that_libpq_also_knows_has_a_hint():
    with pytest.raises(agl.AglError, match=r"no store is named `postgres`; .*did you mean `postgresql`\?"):
        open_store("postgres://me:secret@host/runs")
