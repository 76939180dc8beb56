"""`agl export` and `agl import`, as a user types them."""

import pytest
from click.testing import CliRunner

from agl.cli import cli
from agl.commands.export import NAMES, export, import_
from agl.errors import AglError
from agl.export import FORMATS


@pytest.fixture
def agl(whole_run, tmp_path, monkeypatch):
    """Runs a command in a folder of its own, on the store with the run."""
    monkeypatch.chdir(tmp_path)

    def run(command, *arguments, store=whole_run):
        return CliRunner().invoke(command, [*arguments, "--store", str(store)])

    return run


def test_the_names_of_the_command_are_those_of_the_formats():
    assert tuple(FORMATS) == NAMES


def test_export_and_import_say_what_was_done(agl, tmp_path):
    done = agl(export, "run-1", "--to", "parquet", "--split", "train")
    assert done.output == "run-1.parquet: 10 rows of 5 rollouts; left out: 1 rollouts without an LLM call\n"
    done = agl(import_, "run-1.parquet", store="other.sqlite")
    assert done.output.startswith("run run-1: 4 rollouts with 10 answers; not trained: 1, the call failed")


def test_every_option_has_an_effect(agl, tmp_path):
    def lines(*options):
        done = agl(export, "run-1", "--force", *options)
        assert done.exit_code == 0, done.output
        return len((tmp_path / f"run-1.{options[1]}.jsonl").read_text().splitlines())

    assert lines("--to", "trl-sft") > lines("--to", "trl-sft", "--best") > lines("--to", "trl-sft", "--best", "--split", "val") == 1
    assert lines("--to", "trl-sft", "--min-reward", "1") == 1
    assert "6 rollouts without a late reward" in str(agl(export, "run-1", "--to", "trl-sft", "--late", "--force").exception)
    assert lines("--to", "trl-kto", "--label-at", "0.5") > 1
    agl(export, "run-1", "--to", "hf", "--out", "set")
    assert (tmp_path / "set" / "README.md").exists()
    done = agl(import_, "run-1.trl-sft.jsonl", "--run", "mine", "--split", "val", store="other.sqlite")
    assert done.output.startswith("run mine: 1 rollouts")
    done = agl(import_, "run-1.trl-sft.jsonl", "--run", "again", "--weights-version", "3", store="third.sqlite")
    assert "is an example, of which no tokens are known, so that the version of the weights (`3`) has no effect" in str(done.exception)


def test_few_examples_for_openai_are_told(agl):
    assert "OpenAI's API takes no less than 10 examples; these are" in agl(export, "run-1", "--to", "openai-jsonl").output


def test_what_is_missing_is_said(agl):
    assert "missing --to (or --otlp URL), one of\n  parquet                standard transitions\n  arrow" in agl(export, "run-1").output
    assert isinstance(agl(export, "run-9", "--to", "parquet").exception, AglError)
    assert "Replace a file that is there already" in CliRunner().invoke(cli, ["export", "--help"]).output or "export" not in cli.commands
