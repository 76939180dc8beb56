"""A whole training on PostgreSQL: begun, killed, gone on with from the command line, shown, exported and imported."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from agl.cli import cli
from agl.plugins import Plugins
from agl.store.postgresql import PostgreSQLStore
from agl.testing.scripted import ScriptedServer

SCRIPT = """
import asyncio, os, sys
import agl

class Counting(agl.Algorithm):
    name = "counting"

    async def fit(self, run):
        for step in run.steps(3):
            await run.rollout(run.train.sample(2))
            await run.publish(metrics={"reward": 1.0}, prompt=agl.PromptTemplate(template=str(step)))
            await run.checkpoint(lambda folder: None)
            if step == 1 and not run.restored:
                os.kill(os.getpid(), 9)

@agl.rollout
async def agent(task, llm):
    from openai import AsyncOpenAI
    async with AsyncOpenAI() as client:
        answer = await client.chat.completions.create(model="any", messages=[{"role": "user", "content": task["q"]}])
    return float(answer.choices[0].message.content == "42")

store, endpoint = sys.argv[sys.argv.index("--store") + 1], sys.argv[1]
result = agl.Trainer(
    algorithm=Counting(), store=store, initial_resources={"main_llm": agl.LLM(endpoint=endpoint, model="m"), "prompt": agl.PromptTemplate(template="")}
).fit(agent, [{"q": "what"}, {"q": "why"}], test_dataset=[{"q": "who"}])
print(result)
print(result.summary())
"""


def run(*command, folder):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, cwd=folder, check=False)


def resume(*arguments, folder):
    return run("-c", "from agl.cli import main; main()", "train", "--resume", *arguments, folder=folder)


def agl(*arguments, folder, fails=False):
    """A command in this process, which is quicker."""
    Plugins().register_commands(cli)
    with contextlib.chdir(folder):
        done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code != 0) == fails, done.output
    return done.output


class Trained(NamedTuple):
    folder: Path
    url: str
    shown: str


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """One run was killed after its second step, and has gone on."""
    folder, url = tmp_path_factory.mktemp("trained"), server.url(server.new_database())
    (folder / "train.py").write_text(SCRIPT)
    with ScriptedServer("42") as endpoint:
        first = run("train.py", endpoint.base_url(), "--store", url, folder=folder)
        assert first.returncode == -9, first.stderr
        resumed = resume("--store", url, folder=folder)
    return Trained(folder, url, first.stdout + first.stderr + resumed.stdout + resumed.stderr)


@pytest.fixture
async def record(trained):
    store = PostgreSQLStore(trained.url)
    yield (await store.runs())[0]
    store.close()


def test_a_run_that_was_killed_has_gone_on_to_its_end(trained, record):
    folder = trained.folder
    assert f"run {record.run_id} goes on after step 2" in trained.shown
    assert "test reward 1.000 -> 1.000" in trained.shown
    assert (record.status, record.step, record.directory) == ("done", 3, str(folder / ".agl" / "runs" / record.run_id))
    steps = [json.loads(line)["step"] for line in (Path(record.directory) / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    assert not list(folder.rglob("*.sqlite"))


def test_the_password_is_nowhere_but_in_the_url(trained, server, record):
    folder, url = trained.folder, trained.url
    assert server.password not in trained.shown
    assert f"'postgresql://agl@127.0.0.1:{server.port}/" in trained.shown  # the result was printed, with its store
    shown = url.replace(f":{server.password}", "")
    assert record.command[-1] == shown
    database = url.rpartition("/")[2]
    everything = [
        bytes(body)
        for table in ("runs", "rollouts", "spans", "resources")
        for (body,) in server.execute(f"SELECT body FROM {table}", database)
    ]
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert len(everything) > 10
    assert not any(server.password.encode() in text for text in everything + files)


def test_every_command_takes_the_url(trained, record, server):
    folder, url = trained.folder, trained.url
    where = ("--store", url)
    assert re.search(rf"{record.run_id}  .* done +3 steps  counting", agl("runs", *where, folder=folder))
    spans = server.execute("SELECT body FROM spans", url.rpartition("/")[2])
    rollout = json.loads(spans[0][0])["rollout_id"]
    told = json.loads(agl("explain", rollout, "--json", *where, folder=folder))
    assert (told["rollout_id"], len(told["calls"])) == (rollout, 1)
    assert "reward = 0.5" in agl("reward", rollout, "0.5", *where, folder=folder)
    done = agl("export", record.run_id, "--to", "openai-jsonl", "--out", "made.jsonl", *where, folder=folder)
    assert (folder / "made.jsonl").read_text().count("\n") > 2, done
    assert "run-copy" in agl("import", "made.jsonl", "--run", "run-copy", *where, folder=folder)
    assert "run-copy" in agl("runs", *where, folder=folder)
    checks = json.loads(agl("doctor", "--json", *where, folder=folder))
    (store,) = [check for check in checks if check["name"].startswith("store ")]
    assert (store["name"], store["state"], store["found"]) == (f"store {url.replace(f':{server.password}', '')}", "ok", "opens")


def test_a_report_is_written_beside_the_runs_files(trained, record):
    pytest.importorskip("matplotlib")
    folder, url = trained.folder, trained.url
    path = Path(agl("report", record.run_id, "--store", url, folder=folder).strip())
    assert path == Path(record.directory) / "report.html"
    assert record.run_id in path.read_text()


def test_the_report_of_a_run_of_another_machine_says_where_its_files_are(trained, server, tmp_path):
    pytest.importorskip("matplotlib")
    name = server.new_database(trained.url.rpartition("/")[2])
    body = "convert_from(body, 'UTF8')"
    server.execute(f"UPDATE runs SET body = convert_to(replace({body}, '{trained.folder}', '/elsewhere'), 'UTF8')", name)
    [(run_id,)] = server.execute("SELECT run_id FROM runs ORDER BY created_at LIMIT 1", name)
    said = agl("report", run_id, "--store", server.url(name), folder=tmp_path, fails=True)
    assert f"its metrics are in `/elsewhere/.agl/runs/{run_id}`, which is not here" in said
    shutil.copytree(trained.folder / ".agl" / "runs" / run_id, tmp_path / ".agl" / "runs" / run_id)
    path = tmp_path / agl("report", run_id, "--store", server.url(name), folder=tmp_path).strip()
    assert path == tmp_path / ".agl" / "runs" / run_id / "report.html"


def test_agl_toml_may_name_the_store_for_all_commands(trained, record, tmp_path):
    (tmp_path / "agl.toml").write_text(f'[trainer]\nstore = "{trained.url}"\n')
    assert record.run_id in agl("runs", folder=tmp_path)


def test_a_run_of_another_machine_is_not_gone_on_with(server, tmp_path):
    """Its checkpoints are not here: to begin anew in its name would lose what it has."""
    url = server.url(server.new_database())
    (tmp_path / "train.py").write_text(SCRIPT)
    with ScriptedServer("42") as endpoint:
        run("train.py", endpoint.base_url(), "--store", url, folder=tmp_path)
    (tmp_path / ".agl").rename(tmp_path / "of another machine")
    said = resume("--store", url, folder=tmp_path).stderr
    assert re.search(r"has no unfinished run on this machine; 1 began on others", said)
    (name,) = os.listdir(tmp_path / "of another machine" / "runs")
    said = resume(name, "--store", url, folder=tmp_path).stderr
    assert f"run `{name}` of store `postgresql://agl@127.0.0.1" in said
    assert "its checkpoints are in" in said
    assert not (tmp_path / ".agl").exists()


def test_wrong_passwords_and_missing_databases_are_one_readable_line(server, tmp_path):
    said = agl("runs", "--store", server.url(password="not-it"), folder=tmp_path, fails=True)
    assert said.startswith("Error: store `postgresql://agl@127.0.0.1")
    assert "refuses the user: " in said
    assert "give the right password in the URL, in PGPASSWORD or in ~/.pgpass" in said
    assert "not-it" not in said
    said = agl("runs", "--store", server.url("nothing"), folder=tmp_path, fails=True)
    assert "does not exist: " in said
    assert "make it with `createdb`" in said
    assert server.password not in said
    assert "Traceback" not in said


def test_a_newer_schema_and_the_tables_of_others_are_refused(server, tmp_path):
    name = server.new_database()
    server.execute("CREATE TABLE alembic_version (version_num text)", name)
    for version, said in (("9999", "has schema `9999`, this agl-core knows"), ("ab12cd", "holds the tables of another program")):
        server.execute("DELETE FROM alembic_version", name)
        server.execute(f"INSERT INTO alembic_version VALUES ('{version}')", name)
        assert said in agl("runs", "--store", server.url(name), folder=tmp_path, fails=True)
    assert server.execute("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'", name) == [(1,)]


def test_a_user_without_rights_is_told_what_is_missing(server, tmp_path):
    name = server.new_database()
    server.execute("CREATE USER guest PASSWORD 'guest'")
    url = server.url(name).replace(f"agl:{server.password}", "guest:guest")
    said = agl("runs", "--store", url, folder=tmp_path, fails=True)
    assert "does not let this user do that: permission denied for schema public" in said
