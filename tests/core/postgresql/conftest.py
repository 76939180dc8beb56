"""One PostgreSQL server for the session, and a database of its own for each test."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from postgresql_server import Server, needed_programs

from agl.store.base import RunRecord
from agl.store.postgresql import PostgreSQLStore


@pytest.fixture(scope="session")
def make_server():
    """Starts servers, which end with the session."""
    bin_, started = needed_programs(), []

    def make():
        started.append(Server(bin_))
        return started[-1]

    yield make
    for server in started:
        server.remove()


@pytest.fixture(scope="session")
def server(make_server):
    return make_server()


@pytest.fixture(scope="session")
def _template(server):
    """A database with one run in it, to copy."""
    name = server.new_database()
    store = PostgreSQLStore(server.url(name))
    record = RunRecord(run_id="run", created_at=0.0, status="running", step=0, seed=0, config={}, command=[], folder="", directory="")
    asyncio.run(store.create_run(record))
    store.close()
    return name


@pytest.fixture
def url(server, _template):
    """A database with one run, `run`, in it."""
    return server.url(server.new_database(_template))


@pytest.fixture
def store(url):
    opened = PostgreSQLStore(url)
    yield opened
    opened.close()


@pytest.fixture
def other(url):
    """A second client of the same database, with connections of its own, as another process has."""
    opened = PostgreSQLStore(url)
    yield opened
    opened.close()
