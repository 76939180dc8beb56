"""The page on prompts: its code runs, and what it names is there."""

import re
from pathlib import Path

from agl.testing import ScriptedServer
from agl_apo.model import ModelOptions
from agl_apo.options import REFERENCE, Options
from agl_apo.search import GuardOptions, RacingOptions
from agl_apo.testing import scripted

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


def test_every_option_of_its_own_has_a_place():
    assert [
        name for name in Options.__struct_fields__ if f"`{name}" not in PAGE and f"{name}=" not in PAGE and name != "record_characters"
    ] == []


OTHERS = ("gradient_model", "apply_edit_model", "diversity_temperature", "parameters", "confidence", "reserve", "max_growth")


def test_what_it_names_as_options_are_options():
    named = {*re.findall(r"`(\w+)=", PAGE), *OTHERS} - {"prompts", "strategy"}
    known = {name for kind in (Options, ModelOptions, RacingOptions, GuardOptions) for name in kind.__struct_fields__}
    assert sorted(named - known) == []
    assert [name for name in REFERENCE if f"`{name}`" not in PAGE] == []


def test_the_command_and_the_files_that_it_names_exist():
    import click
    from click.testing import CliRunner

    from agl_apo.plugin import agl_register_commands

    agl_register_commands(cli := click.Group())
    told = CliRunner().invoke(cli, ["apply", "--help"]).output
    assert all(option in told for option in ("--prompt", "--dry-run"))
    [line] = re.findall(r"^\$ agl (.*)$", PAGE, re.MULTILINE)
    assert line.startswith("apply ")
