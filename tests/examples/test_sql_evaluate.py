"""The reward is execution match, and a hostile query harms nothing."""

import sqlite3
import time
from pathlib import Path

import pytest

from evaluate import evaluate_query
from sandbox import QueryError, run_query


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "my shop #1.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript(
            "CREATE TABLE item(name TEXT, price REAL, stock INTEGER);"
            "INSERT INTO item VALUES ('pen', 1.5, 3), ('cup', 4.0, 3), ('mat', 10.0, 7);"
        )
    connection.close()
    return path


SAME = [
    pytest.param(
        "SELECT name FROM item ORDER BY price DESC", "SELECT name FROM item", id="order is free where the reference asks for none"
    ),
    pytest.param("SELECT count(*) * 1.0 FROM item", "SELECT count(*) FROM item", id="a float equals the same integer"),
    pytest.param("SELECT 0.1 + 0.2", "SELECT 0.3", id="floats are rounded"),
    pytest.param("SELECT price AS p FROM item", "SELECT price FROM item", id="column names do not matter"),
    pytest.param("SELECT NULL", "SELECT NULL", id="nulls are equal"),
    pytest.param("SELECT name FROM item WHERE 0", "SELECT name FROM item WHERE price > 99", id="empty results are equal"),
    pytest.param(
        "SELECT name FROM item WHERE stock = 3 ORDER BY name DESC",
        "SELECT name FROM item WHERE stock IN (SELECT stock FROM item ORDER BY price LIMIT 1)",
        id="an order inside a sub-query asks for none",
    ),
]

DIFFERENT = [
    pytest.param(
        "SELECT name FROM item ORDER BY price", "SELECT name FROM item ORDER BY price DESC", id="order counts where the reference asks"
    ),
    pytest.param("SELECT DISTINCT stock FROM item", "SELECT stock FROM item", id="duplicates count"),
    pytest.param("SELECT name, price FROM item", "SELECT name FROM item", id="columns are counted"),
    pytest.param("SELECT name FROM item LIMIT 2", "SELECT name FROM item", id="a missing row"),
    pytest.param("SELECT '3'", "SELECT 3", id="text is not a number"),
    pytest.param("SELECT nothing FROM nowhere", "SELECT name FROM item WHERE 0", id="an error is not an empty result"),
    pytest.param("", "SELECT name FROM item WHERE 0", id="nothing is not an empty result"),
    pytest.param(None, "SELECT name FROM item", id="no query at all"),
    pytest.param("I do not know.", "SELECT name FROM item", id="prose"),
    pytest.param("SELECT 1; SELECT 1", "SELECT 1", id="two statements"),
    pytest.param("SELECT '\x00'", "SELECT 1", id="a null character"),
    pytest.param("SELECT '\ud800'", "SELECT 1", id="a lone surrogate"),
]


@pytest.mark.parametrize(("query", "reference"), SAME)
def test_an_equal_result_earns_one(shop: Path, query: str, reference: str) -> None:
    assert evaluate_query(query, reference, shop) == 1.0


@pytest.mark.parametrize(("query", "reference"), DIFFERENT)
def test_another_result_earns_nothing(shop: Path, query: str | None, reference: str) -> None:
    assert evaluate_query(query, reference, shop) == 0.0


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE item",
        "DELETE FROM item",
        "UPDATE item SET stock = 0",
        "INSERT INTO item VALUES ('hat', 1, 1)",
        "CREATE TABLE mine(a)",
        "PRAGMA writable_schema = 1",
        "ATTACH DATABASE 'other.sqlite' AS other",
        "VACUUM INTO 'copy.sqlite'",
        "SELECT load_extension('evil')",
    ],
)
def test_a_hostile_query_changes_nothing(shop: Path, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.parent)
    before = shop.read_bytes()
    assert evaluate_query(query, "SELECT count(*) FROM item", shop) == 0.0
    assert shop.read_bytes() == before
    assert [path.name for path in shop.parent.iterdir()] == [shop.name]


def test_an_endless_query_is_stopped_at_its_deadline(shop: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    started = time.monotonic()
    with pytest.raises(QueryError, match=r"stopped after 0\.1 s"):
        run_query(shop, endless, seconds=0.1)
    assert time.monotonic() - started < 2.0


def test_a_flood_of_rows_is_cut_off(shop: Path) -> None:
    flood = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    found = run_query(shop, flood, max_rows=50)
    assert (len(found.rows), found.truncated) == (50, True)
    assert evaluate_query(flood, "SELECT stock FROM item", shop) == 0.0


def test_a_huge_value_is_refused(shop: Path) -> None:
    with pytest.raises(QueryError, match="too big"):
        run_query(shop, "SELECT zeroblob(900000000)")


def test_a_reference_that_does_not_run_is_an_error_and_not_a_score(shop: Path) -> None:
    with pytest.raises(ValueError, match="reference query does not run"):
        evaluate_query("SELECT 1", "SELECT oops FROM item", shop)


def test_a_missing_database_is_an_error_and_not_a_score(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        evaluate_query("SELECT 1", "SELECT 1", tmp_path / "none.sqlite")


def test_a_changed_database_is_not_judged_by_its_old_result(shop: Path) -> None:
    assert evaluate_query("SELECT 3", "SELECT count(*) FROM item", shop) == 1.0
    connection = sqlite3.connect(shop)
    with connection:
        connection.execute("INSERT INTO item VALUES ('hat', 9.0, 1)")
    connection.close()
    assert evaluate_query("SELECT 4", "SELECT count(*) FROM item", shop) == 1.0
