"""PostgreSQL keeps the contract of a store, on a real server."""

import pytest

from agl.store.postgresql import PostgreSQLStore
from agl.testing.stores import StoreConformance


class TestPostgreSQLStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _databases(self, server):
        self._server, self._names = server, {}

    def make_store(self, folder):
        if folder not in self._names:
            self._names[folder] = self._server.new_database()
        return PostgreSQLStore(self._server.url(self._names[folder]))
