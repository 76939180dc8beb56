"""The page on prompts: its code runs, and what it names is there."""

import json
import re
from pathlib import Path

import msgspec

from agl.cli import cli as agl_cli
from agl.testing import ScriptedServer
from agl_apo.model import ModelOptions
from agl_apo.options import Options, SharedOptions
from agl_apo.search import BeamOptions, GuardOptions, RacingOptions
from agl_apo.testing import scripted
from agl_gepa.options import SELECTORS, GepaOptions

PAGE = (Path(__file__).parents[2] / "docs" / "apo.md").read_text()
ENDPOINT = "http://127.0.0.1:8000/v1"


def answers(body):
    """The page's model and its critic, told apart by the model's name."""
    if body["model"] == "my-critic":
        return scripted({"not in capital letters": "Use capital letters."})(body)
    text = body["messages"][0]["content"]
    word = re.findall(r"(?:apple|pear|plum) \d+", text)[0]
    return word.upper() if "capital letters" in text else word


def test_its_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with ScriptedServer(answers) as server:
        there = {}
        exec(compile(block.replace(ENDPOINT, server.base_url()), "docs/apo.md", "exec"), there)
    assert there["result"].resources["prompt_template"] != there["prompt"]


SET_BY_US = {"guards", "plain"}


def rows(title):
    """Names and defaults in the table after a line of the page that begins so."""
    table = PAGE[PAGE.index(f"\n{title}") :].split("\n\n")[1]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {name: default for names, defaults, _ in found for name, default in _pairs(re.findall(r"`(\w+)`", names), defaults)}


def _pairs(names, defaults):
    several = [each.strip().strip("`") for each in defaults.split(",")]
    return zip(names, several if len(several) == len(names) else several * len(names), strict=True)


def fields(*kinds):
    return {field.name: field.default for kind in kinds for field in msgspec.structs.fields(kind) if field.name not in SET_BY_US}


def check(told, known, words):
    """The same names, and the same defaults but for those that the page says in words."""
    assert told.keys() == known.keys()
    said = {name: default for name, default in told.items() if name not in words}
    assert {name: json.loads(default) for name, default in said.items()} == {name: known[name] for name in said}


def test_the_options_of_the_models_are_all_there_with_their_defaults():
    own = {name: default for name, default in fields(SharedOptions).items() if name.endswith("_prompt") or name == "record_characters"}
    numbers = {"timeout", "retries", "backoff", "model_concurrency", "record_characters"}
    known = {**fields(ModelOptions), **own}
    check(rows("Most need no change. Models:"), known, known.keys() - numbers)


def test_the_options_of_the_guards_are_all_there_with_their_defaults():
    check(rows("Guards, which cost no rollout:"), fields(GuardOptions), {"required"})


def test_the_options_of_the_search_are_all_there_with_their_defaults():
    known = fields(RacingOptions)
    del known["max_rollouts"]  # a budget, which has a table of its own
    check(rows("The search ("), known, {"concurrency"})


def test_the_options_of_gepa_are_all_there_with_their_defaults():
    check(rows("`agl.GEPA("), fields(GepaOptions), {"candidate_selection_strategy"})
    assert rows("`agl.GEPA(")["candidate_selection_strategy"] == GepaOptions().candidate_selection_strategy
    assert [name for name in SELECTORS if f"`{name}`" not in PAGE] == []


def test_what_is_left_has_a_place_too():
    left = {**fields(Options, BeamOptions), "api_key": None}
    assert [name for name in left if f"`{name}" not in PAGE and f"{name}=" not in PAGE] == []


def test_the_command_and_the_files_that_it_names_exist():
    import click
    from click.testing import CliRunner

    from agl_apo.plugin import agl_register_commands

    agl_register_commands(cli := click.Group())
    told = CliRunner().invoke(cli, ["apply", "--help"]).output
    assert all(option in told for option in ("--prompt", "--dry-run"))
    lines = re.findall(r"^\$ agl (\S+) (.*)$", PAGE, re.MULTILINE)
    assert [command for command, _ in lines] == ["train", "train", "apply"]
    known = CliRunner().invoke(agl_cli, ["train", "--help"]).output
    given = re.findall(r" (--[\w-]+)", "".join(rest for command, rest in lines if command == "train"))
    assert [option for option in given if option not in known] == []
