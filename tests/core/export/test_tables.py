"""Standard transitions in Parquet, Arrow and folders for Hugging Face: what is in them, and there and back."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from agl import add_reward
from agl.errors import ConfigError, DataError, NotFoundError, StoreError
from agl.export import arrow_schema, export_run, import_file
from agl.export.tables import ColumnFile
from agl.store.opening import opened
from agl.store.sqlite import SQLiteStore
from agl.transitions import transitions_of


def rows_in(path):
    return pq.read_table(path).to_pylist()


def read(path, run="run-1"):
    async def work():
        return await store.results(await store.find(run))

    store = SQLiteStore(path)
    try:
        return asyncio.run(work())
    finally:
        store.close()


def test_a_row_per_answer_holds_what_the_engine_and_the_run_told(whole_run, tmp_path):
    done = export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet")
    rows = rows_in(done.path)
    assert (done.rows, done.rollouts) == (len(rows), 6) == (12, 6)
    first = rows[1]
    assert (first["rollout_id"], first["call"], first["span_id"], first["parent"]) == ("ro-3", 1, f"{2:016x}", f"{1:016x}")
    assert (first["prompt_ids"], first["response_ids"], first["logprobs"]) == ([1, 2, 3, 4, 5], [21, 22], [-0.05, -0.05])
    assert (first["version"], first["temperature"], first["reward"], first["rollout_reward"]) == ("3", 0.7, 1.0, 1.0)
    assert (first["mode"], first["step"], first["resources_version"], first["status"], first["failure"]) == (
        "train",
        2,
        3,
        "succeeded",
        None,
    )
    assert [message["role"] for message in json.loads(first["messages"])] == ["system", "user", "assistant", "tool"]
    assert json.loads(first["answer"]) == {"role": "assistant", "content": "one"}
    assert json.loads(first["parameters"]) == {"model": "policy", "temperature": 0.7}
    assert json.loads(first["task"]) == {"question": "g1"}
    assert json.loads(first["tools"])[0]["function"]["name"] == "query"
    assert (first["started_at"], first["ended_at"]) == (1002.0, 1002.5)


def test_what_must_not_be_trained_says_why(whole_run, tmp_path):
    rows = rows_in(export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path)
    group = [row for row in rows if row["group_id"] == "g2"]
    assert [row["untrained"] for row in group] == ["the call failed", None, None, "the endpoint gave no token ids", None]
    assert [row["choice"] for row in group] == [0, 0, 1, 0, 0]
    assert (group[0]["error"], group[0]["http_status"], group[0]["answer"]) == ("the endpoint answered 500", 500, None)
    assert (group[3]["prompt_ids"], group[3]["response_ids"], group[3]["logprobs"]) == ([7], None, None)
    assert (group[4]["messages"], group[4]["dialect"], json.loads(group[4]["parameters"])["prompt"]) == (None, "completions", "Once")
    assert next(row for row in rows if row["group_id"] == "g3")["failure"] == "infrastructure"


def test_a_frozen_role_is_untrained_as_in_the_run(maker, tmp_path):
    maker.rollout(maker.call([{"role": "user", "content": "hi"}], "ok", role="critic"), reward=1.0)
    store = maker.write(tmp_path / "store.sqlite", roles={"critic": "freeze"})
    (row,) = rows_in(export_run(store, "run-1", "parquet", tmp_path / "x.parquet").path)
    assert row["untrained"] == "role `critic` is frozen"


def test_each_reward_stands_where_it_belongs(whole_run, tmp_path):
    rows = rows_in(export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path)
    names = [[(item["name"], item["role"]) for item in row["rewards"]] for row in rows if row["group_id"] == "g2"]
    shared = [("style", None), ("reward", None)]
    assert names == [shared, [("format", None), *shared], [("format", None), *shared], [("reward", "critic"), *shared], shared]
    assert json.loads(rows[5]["rewards"][0]["details"]) == {"why": "ok"}
    assert [row["rollout_reward"] for row in rows if row["group_id"] == "g3"] == [None]


@pytest.mark.parametrize("to", ["parquet", "arrow", "hf"])
def test_there_and_back_gives_an_equal_table(whole_run, tmp_path, to):
    suffix = "" if to == "hf" else f".{to}"
    first = export_run(whole_run, "run-1", to, tmp_path / f"first{suffix}").path
    done = import_file(tmp_path / "other" / "store.sqlite", first)
    second = export_run(tmp_path / "other" / "store.sqlite", "run-1", to, tmp_path / f"second{suffix}").path
    for file in sorted(first.rglob("*.parquet")) if to == "hf" else [first]:
        other = second / file.relative_to(first) if to == "hf" else second
        assert table(file).equals(table(other))
        assert table(file).schema.metadata == table(other).schema.metadata
    assert (done.run_id, done.rollouts, done.answers) == ("run-1", 5, 12)


def table(path):
    return pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()


def test_an_imported_run_gives_the_same_transitions(whole_run, tmp_path):
    file = export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path
    import_file(tmp_path / "other.sqlite", file)
    before = {result.rollout.rollout_id: result for result in read(whole_run)}
    for result in read(tmp_path / "other.sqlite"):
        assert transitions_of(result.spans) == transitions_of(before[result.rollout.rollout_id].spans)
        assert result.rewards == before[result.rollout.rollout_id].rewards
        assert result.reward == before[result.rollout.rollout_id].reward


def test_what_a_file_says_is_untrained_stays_so(whole_run, tmp_path):
    file = export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path
    rows = [{**row, "untrained": "too long for us" if row["call"] == 1 else row["untrained"]} for row in rows_in(file)]
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema()), tmp_path / "y.parquet")
    done = import_file(tmp_path / "other.sqlite", tmp_path / "y.parquet")
    assert done.untrained["too long for us"] == 5
    assert {item.untrained for item in transitions_of(read(tmp_path / "other.sqlite", done.run_id)[0].spans)} == {None, "too long for us"}


def test_a_report_can_be_made_of_an_imported_run(whole_run, tmp_path):
    from agl.report import write_report

    import_file(tmp_path / "o" / "store.sqlite", export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path)
    page = write_report(tmp_path / "o" / "store.sqlite", "run-1", tmp_path / "report.html").read_text()
    assert "How many?" in page


def test_filters_choose_rollouts_and_count_what_they_leave_out(whole_run, tmp_path):
    def groups(name, **options):
        done = export_run(whole_run, "run-1", "parquet", tmp_path / f"{name}.parquet", **options)
        return {(row["group_id"], row["sample"], row["rollout_reward"]) for row in rows_in(done.path)}, done.left_out

    chosen, left_out = groups("best", best=True)
    assert chosen == {("g1", 0, 1.0), ("g2", 0, 0.5), ("g5", 0, 0.5)}
    assert left_out == {"rollouts not the best of their group": 1, "rollouts without a reward": 1, "rollouts without an LLM call": 1}
    assert groups("least", min_reward=0.5)[0] == {("g1", 0, 1.0), ("g2", 0, 0.5), ("g5", 0, 0.5)}
    assert groups("val", split="val")[0] == {("g5", 0, 0.5)}


def test_rollouts_whose_rewards_came_late_can_be_had_alone(whole_run, tmp_path):
    with pytest.raises(DataError, match="rollouts without a late reward"):
        export_run(whole_run, "run-1", "parquet", tmp_path / "none.parquet", late=True)
    with opened(whole_run) as store:
        asyncio.run(store.update_run("run-1", status="done"))
        rollout = next(result for result in read(whole_run, "run-1") if (result.rollout.group_id, result.rollout.sample) == ("g2", 0))
        add_reward(store, rollout.rollout.rollout_id, 0.875)
    done = export_run(whole_run, "run-1", "parquet", tmp_path / "late.parquet", late=True)
    assert {(row["group_id"], row["sample"], row["rollout_reward"]) for row in rows_in(done.path)} == {("g2", 0, 0.875)}


def test_rollouts_that_have_not_ended_are_left_out_and_counted(whole_run, make_rollout, tmp_path):
    async def add():
        await store.enqueue([make_rollout(run_id="run-1", group_id="late")])

    store = SQLiteStore(whole_run)
    asyncio.run(add())
    store.close()
    done = export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet")
    assert done.left_out["rollouts not ended"] == 1


def test_the_folder_for_hugging_face_has_a_file_per_split_and_a_card(whole_run, tmp_path):
    folder = export_run(whole_run, "run-1", "hf", tmp_path / "set").path
    assert sorted(item.name for item in (folder / "data").iterdir()) == ["train.parquet", "validation.parquet"]
    assert "- split: validation\n    path: data/validation.parquet" in (folder / "README.md").read_text()


def test_no_key_of_the_configuration_goes_into_a_file(whole_run, tmp_path):
    export_run(whole_run, "run-1", "arrow", tmp_path / "x.arrow")
    assert b"sk-secret" not in (tmp_path / "x.arrow").read_bytes()


def test_nothing_is_replaced_without_force(whole_run, tmp_path):
    out = tmp_path / "x.parquet"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is there already; give another name, or replace it with `--force`"):
        export_run(whole_run, "run-1", "parquet", out)
    assert out.read_text() == "mine"
    export_run(whole_run, "run-1", "parquet", out, force=True)
    assert rows_in(out)


def test_a_folder_of_the_users_is_never_replaced(whole_run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"is a folder with \['thesis.tex'\] in it, which are not replaced"):
        export_run(whole_run, "run-1", "hf", tmp_path / "mine", force=True)
    assert export_run(whole_run, "run-1", "hf", tmp_path / "set").path.is_dir()
    assert export_run(whole_run, "run-1", "hf", tmp_path / "set", force=True).path.is_dir()


def test_a_failure_leaves_no_file_behind(whole_run, tmp_path, monkeypatch):
    def fail(self, rows):
        raise DataError("no")

    monkeypatch.setattr(ColumnFile, "write", fail)
    with pytest.raises(DataError, match="no"):
        export_run(whole_run, "run-1", "parquet", tmp_path / "out" / "x.parquet")
    assert list((tmp_path / "out").iterdir()) == []


SLOW = """
import sys, time
from agl.export import export_run
from agl.export.tables import ColumnFile
write = ColumnFile.write
def slow(self, rows):
    write(self, rows)
    print("writing", flush=True)
    time.sleep(0.2)
ColumnFile.write = slow
export_run(sys.argv[1], "run-1", "parquet", sys.argv[2])
"""


def test_ctrl_c_leaves_no_half_file(maker, tmp_path):
    for number in range(200):
        maker.talk("x", 1.0, group=f"g{number}")
    store, out = maker.write(tmp_path / "store.sqlite"), tmp_path / "out" / "x.parquet"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(store), str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    assert [item.name for item in out.parent.iterdir()] == ["x.parquet.partial"]
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in errors
    assert list(out.parent.iterdir()) == []


def test_memory_does_not_grow_with_the_run(maker, tmp_path, monkeypatch):
    monkeypatch.setattr("agl.export.tables.BYTES", 200_000)
    peaks = []
    for size in (40, 200):
        maker.run_id, maker.results = f"run-{size}", []
        for number in range(size):
            maker.talk("x" * 1000, 1.0, group=f"{size}-{number}", ids=range(2000))
        store = maker.write(tmp_path / f"{size}.sqlite")
        pool = pa.system_memory_pool()
        monkeypatch.setattr(pa, "default_memory_pool", lambda pool=pool: pool)
        tracemalloc.start()
        export_run(store, maker.run_id, "parquet", tmp_path / f"{size}.parquet")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert pq.ParquetFile(tmp_path / "200.parquet").num_row_groups > 5


async def test_it_works_where_an_event_loop_runs(whole_run, tmp_path):
    assert export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").rows == 12


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"to": "csv"}, ConfigError, "there is no format `csv`; there are parquet, arrow"),
        ({"out": "x.arrow"}, ConfigError, r"must end with .parquet for `parquet`"),
        ({"split": "dev"}, ConfigError, "`split` must be train, val or test"),
        ({"label_at": 1.0}, ConfigError, "the other formats do not take it"),
        ({"to": "trl-kto", "out": "x.jsonl"}, ConfigError, "`trl-kto` needs `label_at`"),
        ({"to": "trl-dpo", "out": "x.jsonl", "best": True}, ConfigError, "leave out `best` and `min_reward`"),
        ({"run_id": "run-9"}, NotFoundError, "no run `run-9`"),
        ({"store": "nowhere.sqlite"}, NotFoundError, "no store at `nowhere.sqlite`"),
        ({"min_reward": 3.0}, DataError, "nothing of run `run-1` can be written as `parquet`: 5 rollouts below 3, 1 rollouts without"),
        ({"split": "test"}, DataError, "it has no rollouts of this kind"),
    ],
)
def test_what_cannot_work_is_said_and_writes_nothing(whole_run, tmp_path, monkeypatch, options, error, says):
    monkeypatch.chdir(tmp_path)
    given = {"store": whole_run, "run_id": "run-1", "to": "parquet", "out": "x.parquet", **options}
    with pytest.raises(error, match=says):
        export_run(**given)
    assert not list(tmp_path.glob("x.*"))
    assert not (tmp_path / "nowhere.sqlite").exists()


def test_without_pyarrow_the_error_says_what_to_type(whole_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r'pip install "agl-core\[export\]"'):
        export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet")
    assert export_run(whole_run, "run-1", "trl-sft", tmp_path / "x.jsonl").rows


def broken(file, tmp_path, **columns):
    rows = [{**row, **columns} for row in rows_in(file)[:1]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "broken.parquet")
    return tmp_path / "broken.parquet"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"task": "no json"}, "rollout `ro-3` cannot be read: JSON is malformed"),
        ({"mode": "dev"}, "'dev' is not a valid Mode"),
        ({"choice": 3}, r"has the answers \[3\]"),
        ({"prompt_ids": ["a"]}, "does not fit the schema"),
        ({"rollout_id": None}, "does not fit the schema"),
    ],
)
def test_a_file_that_cannot_be_read_leaves_the_store_as_it_was(whole_run, tmp_path, columns, says):
    file = export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path
    with pytest.raises(DataError, match=says):
        import_file(tmp_path / "other.sqlite", broken(file, tmp_path, **columns))
    store = SQLiteStore(tmp_path / "other.sqlite")
    assert asyncio.run(store.runs()) == []
    store.close()


def test_other_tables_and_newer_schemas_are_refused(whole_run, tmp_path):
    pq.write_table(pa.table({"text": ["hi"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"it lacks the columns \['run_id', 'rollout_id'"):
        import_file(tmp_path / "other.sqlite", tmp_path / "text.parquet")
    found = pq.read_table(export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path)
    pq.write_table(found.replace_schema_metadata({"agl.schema_version": "99"}), tmp_path / "new.parquet")
    with pytest.raises(DataError, match="has version 99 of the schema, this agl-core knows 1: upgrade agl-core"):
        import_file(tmp_path / "other.sqlite", tmp_path / "new.parquet")


def test_columns_of_later_versions_and_other_widths_are_read(whole_run, tmp_path):
    found = pq.read_table(export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path)
    wide = found.set_column(found.schema.get_field_index("step"), "step", found["step"].cast(pa.int64()))
    pq.write_table(wide.append_column("extra", pa.array(["?"] * found.num_rows)), tmp_path / "wide.parquet")
    assert import_file(tmp_path / "other.sqlite", tmp_path / "wide.parquet").answers == 12


def test_a_run_is_imported_once_into_a_store(whole_run, tmp_path):
    file = export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path
    with pytest.raises(ConfigError, match=r"run `run-1` is in store .* already; give the new one another id"):
        import_file(whole_run, file)
    with pytest.raises(ConfigError, match=r"rollouts of this file are in store .* already"):
        import_file(whole_run, file, run_id="run-2")
    assert import_file(tmp_path / "other.sqlite", file, run_id="mine").run_id == "mine"
    with pytest.raises(ConfigError, match="tell their mode and version"):
        import_file(tmp_path / "third.sqlite", file, split="val")


def test_a_run_of_a_trainer_is_exported_with_the_engines_tokens(tmp_path):
    import agl
    from agl.testing.scripted import ScriptedServer

    class Once(agl.Algorithm):
        name = "once"

        async def fit(self, run):
            for _ in run.steps(1):
                await run.rollout(run.train.sample(2), n=2)
                await run.publish(metrics={"reward": 1.0})

    @agl.rollout
    async def agent(task, llm):
        from openai import AsyncOpenAI

        async with AsyncOpenAI() as client:
            messages = [{"role": "user", "content": task["q"]}]
            given = await client.chat.completions.create(model="any", messages=messages)
        return float(given.choices[0].message.content == "42")

    with ScriptedServer("42") as server:
        llm = agl.LLM(endpoint=server.base_url(), model="m", version="7", api_key="sk-upstream")
        trainer = agl.Trainer(algorithm=Once(), initial_resources={"main_llm": llm}, store=tmp_path / "store.sqlite", quiet=True)
        result = trainer.fit(agent, [{"q": "what"}, {"q": "why"}])
    done = export_run(tmp_path / "store.sqlite", result.run_id, "parquet", tmp_path / "x.parquet")
    rows = rows_in(done.path)
    assert [(row["rollout_reward"], row["reward"], row["version"], row["untrained"]) for row in rows] == [(1.0, 1.0, "7", None)] * 4
    assert all(row["prompt_ids"] and len(row["response_ids"]) == len(row["logprobs"]) for row in rows)
    assert {(row["group_id"], row["sample"]) for row in rows} == {("0-train-0", 0), ("0-train-0", 1), ("0-train-1", 0), ("0-train-1", 1)}
    assert {json.loads(row["messages"])[0]["content"] for row in rows} == {"what", "why"}
    assert {json.loads(row["answer"])["content"] for row in rows} == {"42"}


def test_an_import_that_breaks_off_leaves_a_run_that_says_so(whole_run, tmp_path, monkeypatch):
    file = export_run(whole_run, "run-1", "parquet", tmp_path / "x.parquet").path
    monkeypatch.setattr("agl.export.intake.AT_ONCE", 2)
    restore, calls = SQLiteStore.restore, []

    async def break_off(self, results):
        calls.append(results)
        if len(calls) == 2:
            raise StoreError("full")
        await restore(self, results)

    monkeypatch.setattr(SQLiteStore, "restore", break_off)
    with pytest.raises(StoreError, match="full"):
        import_file(tmp_path / "other.sqlite", file)
    store = SQLiteStore(tmp_path / "other.sqlite")
    assert [record.status for record in asyncio.run(store.runs())] == ["failed"]
    store.close()
    assert len(read(tmp_path / "other.sqlite")) == 2
