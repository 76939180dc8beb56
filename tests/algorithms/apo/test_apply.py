"""`agl apply`: the prompt goes into the file that the old one stands in, and into no other place."""

import json
import os

import pytest
from click.testing import CliRunner

from agl.cli import cli
from agl_apo.apply import ApplyError, literal, replaced
from agl_apo.plugin import agl_register_commands

OLD, NEW = 'Say "hi" to\n{name}.', 'Say "good day"\nto {name}: \\o/'
agl_register_commands(cli)


@pytest.fixture
def result(tmp_path):
    prompts = {"greeter.system_prompt": {"seed": OLD, "best": NEW}, "same": {"seed": "x", "best": "x"}}
    path = tmp_path / "run" / "result.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"run": "run-1", "prompts": prompts}))
    return path


def apply(*arguments):
    return CliRunner().invoke(cli, ["apply", *map(str, arguments)])


def test_a_text_file_gets_the_new_text_and_the_diff_is_shown(result, tmp_path):
    file = tmp_path / "prompt.md"
    file.write_text(f"# Prompt\n{OLD}\nend\n")
    os.chmod(file, 0o640)
    done = apply(result, file)
    assert done.exit_code == 0, done.output
    assert file.read_text() == f"# Prompt\n{NEW}\nend\n"
    assert '-Say "hi" to\n' in done.output
    assert '+Say "good day"\n' in done.output
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.glob(".*")) == []


def test_a_folder_names_the_run_too_and_a_dry_run_writes_nothing(result, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text(OLD)
    done = apply(result.parent, file, "--dry-run")
    assert done.exit_code == 0
    assert "nothing is written" in done.output
    assert file.read_text() == OLD


@pytest.mark.parametrize(
    "source",
    [
        '"Say \\"hi\\" to\\n{name}."',
        "'Say \"hi\" to\\n{name}.'",
        '"""Say "hi" to\n{name}."""',
        '("Say " \'"hi"\' " to\\n{name}.")',
        'r"""Say "hi" to\n{name}."""',
    ],
)
def test_in_python_the_old_text_is_a_string_of_any_form(source):
    before = f"# ärger\nx = 'ä'; PROMPT = {source}; y = 2\n"
    after = replaced(before, OLD, NEW, ".py")
    names = {}
    exec(after, names)
    assert (names["PROMPT"], names["x"], names["y"]) == (NEW, "ä", 2)


def test_in_json_it_is_a_string():
    before = json.dumps({"a": OLD, "b": 1}, indent=2)
    assert json.loads(replaced(before, OLD, NEW, ".json")) == {"a": NEW, "b": 1}


@pytest.mark.parametrize(
    ("content", "suffix", "said"),
    [
        ("nothing of it", ".md", "the old text is not there; it must be there exactly once"),
        (f"{OLD} {OLD}", ".md", "the old text is there 2 times"),
        ("x = 1", ".py", "the old text, as a string of its own, is not there"),
        ('a = "x"\nb = "x"', ".py", "is there 2 times"),
        ('f"x{1}"', ".py", "is not there"),
        ("def", ".py", "the file is no Python that can be read"),
        ('{"a": "y"}', ".json", "the old text is not there"),
    ],
)
def test_it_refuses_when_the_old_text_is_not_there_exactly_once(content, suffix, said):
    old = OLD if suffix == ".md" else "x"
    with pytest.raises(ApplyError, match=said):
        replaced(content, old, NEW, suffix)


def test_a_refusal_leaves_the_file_alone_and_names_it(result, tmp_path):
    file = tmp_path / "other.py"
    file.write_text("x = 1\n")
    done = apply(result, file)
    assert done.exit_code == 1
    assert f"`greeter.system_prompt` cannot be put into `{file}`" in done.output
    assert file.read_text() == "x = 1\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "same"], "left the prompt `same` as it was, so that there is nothing to write"),
        (["--prompt", "ghost"], r"has no prompt `ghost`; it has ['greeter.system_prompt', 'same']"),
    ],
)
def test_a_prompt_that_did_not_change_or_is_not_there_is_refused(result, tmp_path, arguments, said):
    file = tmp_path / "prompt.txt"
    file.write_text(OLD)
    assert said in apply(result, file, *arguments).output


def test_a_run_that_changed_nothing_has_nothing_to_write(result, tmp_path):
    result.write_text(json.dumps({"run": "run-1", "prompts": {"same": {"seed": "x", "best": "x"}}}))
    file = tmp_path / "prompt.txt"
    file.write_text("x")
    assert "it changed no prompt, so that there is nothing to write" in apply(result, file).output


def test_a_run_that_is_not_there_is_said(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("x")
    assert "there is no store" in apply("run-9", file, "--store", tmp_path / "none.sqlite").output


def test_a_line_end_of_windows_stays_one(result, tmp_path):
    file = tmp_path / "prompt.py"
    file.write_bytes(f"A = 1\r\nP = {literal(OLD)}\r\n".encode())
    assert apply(result, file).exit_code == 0
    assert file.read_bytes().startswith(b"A = 1\r\nP = ")
    assert file.read_bytes().endswith(b"\r\n")


@pytest.mark.parametrize("text", ["a", 'a "b"', "a\nb", 'a\n"""b', "a\n\\b", 'ends in\n"', "tab\tand\x00", "ü\n– x", "\r\n"])
def test_a_literal_reads_back_as_the_text(text):
    assert eval(literal(text)) == text
