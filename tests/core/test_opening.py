"""A store, an executor and an algorithm by name, path, URL or object."""

from pathlib import Path

import pytest

import agl
from agl.errors import ConfigError, PluginError, StoreError
from agl.executors import Executor
from agl.report import write_report
from agl.runner import ThreadExecutor
from agl.store.opening import open_store, opened, path_of
from agl.store.sqlite import SQLiteStore
from agl.testing.memory import MemoryStore

PROMPT = {"prompt": agl.PromptTemplate(template="0")}


@agl.rollout
def agent(task):
    return 1.0


class Toy(agl.Algorithm):
    async def fit(self, run):
        for _ in run.steps(1):
            await run.rollout(run.train.sample(2))
            await run.publish(metrics={"reward": 1.0})


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trainer(**values):
    return agl.Trainer(**{"algorithm": Toy(), "initial_resources": PROMPT, "quiet": True, **values})


@pytest.mark.parametrize("given", ["a/b.sqlite", Path("a/b.sqlite"), "sqlite:///a/b.sqlite", {"driver": "sqlite", "path": "a/b.sqlite"}])
def test_a_path_a_url_and_a_driver_with_options_open_the_same_file(given, tmp_path):
    with opened(given) as store:
        assert (type(store), store.path, store.folder) == (SQLiteStore, Path("a/b.sqlite"), Path("a"))
    assert (tmp_path / "a" / "b.sqlite").exists()
    with pytest.raises(StoreError, match="is closed"):
        store.post_heartbeat([], print)


def test_four_slashes_begin_at_the_root(tmp_path):
    with opened(f"sqlite:///{tmp_path}/a%20b.sqlite") as store:
        assert store.path == tmp_path / "a b.sqlite"


def test_a_text_that_is_a_drivers_name_is_the_driver(install_package):
    install_package("agl-mine", {"mine": "agl_mine:Mine"}, group="agl.stores", agl_mine=MINE)
    assert (open_store("mine").where, open_store("mine://somewhere").where) == ("mine", "mine://somewhere")
    assert open_store({"driver": "agl-mine:mine", "where": "there"}).where == "there"
    assert path_of("mine") is None
    assert path_of("mine.sqlite") == Path("mine.sqlite")


MINE = """
from agl.testing.memory import MemoryStore
class Mine(MemoryStore):
    def __init__(self, where="mine"):
        super().__init__()
        self.where = where
    @classmethod
    def from_url(cls, url):
        return cls(url)
"""


def test_an_object_stays_its_owners():
    store = MemoryStore()
    with opened(store) as same:
        assert same is store
    assert store.work_mark() == 0
    assert trainer(store=store).store is store


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("", ConfigError, "`store` is empty"),
        (3, ConfigError, "`store` must be an `agl.store.base.Store`, a path, a URL or a driver's name, given was 3"),
        ({"path": "x"}, ConfigError, r"`store` needs the driver's name: \{'driver': 'sqlite'.*there are \['postgresql', 'sqlite'"),
        ({"driver": "sqlite", "folder": "x"}, ConfigError, r"the store `sqlite` does not take \['folder'\]"),
        ("mongodb://host/x", PluginError, r"no store is named `mongodb`; there are \['postgresql', 'sqlite'"),
        ("sqlite://host/x?y=1", StoreError, "the store's URL must be `sqlite:///` and a path, given was 'sqlite://host/x"),
        ("sqlite:///", StoreError, "the store's URL must be"),
    ],
)
def test_what_names_no_store_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        open_store(given)


def test_a_store_without_urls_says_so():
    with pytest.raises(StoreError, match="the store MemoryStore takes no URL, given was `memory://x`"):
        MemoryStore.from_url("memory://x")


def test_a_run_in_any_store_ends_with_its_result_and_its_report(tmp_path):
    pytest.importorskip("matplotlib")
    store = MemoryStore(tmp_path / "mine")
    result = trainer(store=store).fit(agent, [{"id": n} for n in range(3)], test_dataset=[{"id": "t"}])
    assert result.store is store
    assert result.directory == tmp_path / "mine" / "runs" / result.run_id
    page = result.report()
    assert page.parent == result.directory
    assert result.run_id in page.read_text()
    store.close()


def test_a_report_of_a_path_that_does_not_exist_makes_no_store(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(agl.AglError, match=r"no store at `none\.sqlite`"):
        write_report("none.sqlite", "run-x")
    assert not (tmp_path / "none.sqlite").exists()


def test_a_run_is_resumed_in_a_store_that_is_an_object(tmp_path):
    class Stops(Toy):
        async def fit(self, run):
            for _ in run.steps(2):
                await run.rollout(run.train.sample(1))
                await run.publish(metrics={"reward": 1.0})
                await run.checkpoint(lambda folder: None)
                if run.restored is None:
                    raise RuntimeError("power cut")

    store = MemoryStore(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(algorithm=Stops(), store=store).fit(agent, [{"id": 1}])
    result = trainer(algorithm=Stops(), store=store).fit(agent, [{"id": 1}], resume=True)
    assert len((result.directory / "metrics.jsonl").read_text().splitlines()) == 2


# Executors.


class Counting(ThreadExecutor):
    made = 0

    def __init__(self, **given):
        Counting.made += 1
        super().__init__(**given)


def test_the_executor_is_a_name_or_a_class():
    assert trainer().executor is ThreadExecutor
    assert trainer(executor="thread").executor is ThreadExecutor
    trainer(executor=Counting, store=MemoryStore(".")).fit(agent, [{"id": 1}])
    assert Counting.made == 1


@pytest.mark.parametrize("given", [3, object, Executor.run])
def test_what_is_no_executor_is_refused(given):
    with pytest.raises(
        ConfigError, match=r"`executor` must be a class derived from `agl.executors.Executor` or the name of one, given was"
    ):
        trainer(executor=given)


def test_an_unknown_executor_lists_those_there_are():
    with pytest.raises(PluginError, match=r"no executor is named `ray`; there are .*'thread'"):
        trainer(executor="ray")
