"""`agl apply`: write a prompt that a run found back into the file that the old one stands in."""

from __future__ import annotations

import ast
import difflib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from agl.commands.stores import existing_store, store_option
from agl.errors import AglError, ConfigError, DataError, NotFoundError
from agl_apo.outcome import RESULT


class ApplyError(AglError):
    """A prompt cannot be written back: the old text is not in the file exactly once."""


def replaced(content: str, old: str, new: str, suffix: str) -> str:
    """A file's content with one text in place of another.

    In Python the old text is the value of a string literal, however it is written; in JSON it is a string; in any other file it stands there as
    it is.

    Args:
        suffix: of the file, such as `.py`.

    Raises:
        ApplyError: the old text is not there exactly once.
    """
    if suffix == ".py":
        return _in_python(content, old, new)
    if suffix in (".json", ".jsonl", ".ipynb"):
        found = [form for form in {json.dumps(old), json.dumps(old, ensure_ascii=False)} if form in content]
        old = _once(content, found[0] if found else json.dumps(old))
        return content.replace(old, json.dumps(new, ensure_ascii=not found or found[0].isascii()))
    return content.replace(_once(content, old), new)


def _once(content: str, text: str) -> str:
    if (count := content.count(text)) != 1:
        raise ApplyError(_not_once(count, "text"))
    return text


def _not_once(count: int, what: str) -> str:
    where = "is not there" if count == 0 else f"is there {count} times"
    return f"the old {what} {where}; it must be there exactly once: put the prompt in by hand, or name the file that holds it"


def _in_python(content: str, old: str, new: str) -> str:
    try:
        tree = ast.parse(content)
    except SyntaxError as error:
        raise ApplyError(f"the file is no Python that can be read: {error}") from error
    found = list(_literals(tree, old))
    if len(found) != 1:
        raise ApplyError(_not_once(len(found), "text, as a string of its own,"))
    node = found[0]
    lines = content.encode().splitlines(keepends=True)  # columns count bytes
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    begin, end = starts[node.lineno - 1] + node.col_offset, starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
    whole = content.encode()
    changed = (whole[:begin] + literal(new).encode() + whole[end:]).decode()
    if [each.value for each in _literals(ast.parse(changed), new)].count(new) < 1:
        raise ApplyError("the new text does not read back as it is; put the prompt in by hand")
    return changed


def _literals(tree: ast.AST, text: str) -> Iterator[ast.Constant]:
    inside = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == text and isinstance(node.value, str) and id(node) not in inside:
            yield node


def literal(text: str) -> str:
    """Python source of a text: in triple quotes where it has several lines and nothing in it needs an escape."""
    tripled = "\n" in text and all(letter == "\n" or letter.isprintable() for letter in text)
    if tripled and "\\" not in text and '"""' not in text and not text.endswith('"'):
        return f'"""{text}"""'
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)


def read_result(run: str, store: str | None) -> dict[str, Any]:
    """What a run found, by the run's id, its folder, or the path of its `result.json`.

    Raises:
        NotFoundError: there is none.
        DataError: it cannot be read.
    """
    places = [Path(run), Path(run) / RESULT]
    path = next((place for place in places if place.is_file()), None) or _folder(run, store) / RESULT
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise NotFoundError(f"there is no `{path}`: the run has not ended, or its algorithm optimised no prompts") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read: {error}") from error


def _folder(run: str, store: str | None) -> Path:
    import asyncio

    from agl.learned import directory_of
    from agl.store.opening import opened

    with opened(existing_store(store, f"name the run's own with `--store`, or the path of its `{RESULT}`")) as found:
        return directory_of(asyncio.run(found.run(run)), found)


def _chosen(result: dict[str, Any], name: str | None) -> tuple[str, str, str]:
    """Name, old and new text of the prompt."""
    prompts: dict[str, dict[str, str]] = result.get("prompts") or {}
    changed = {key: texts for key, texts in prompts.items() if texts["seed"] != texts["best"]}
    if name is None and len(changed) != 1:
        has = (
            f"it changed {sorted(changed)}; name one with `--prompt`"
            if changed
            else "it changed no prompt, so that there is nothing to write"
        )
        raise ConfigError(f"run `{result.get('run')}`: {has}")
    name = name or next(iter(changed))
    if name not in prompts:
        raise NotFoundError(f"run `{result.get('run')}` has no prompt `{name}`; it has {sorted(prompts)}")
    if name not in changed:
        raise ConfigError(f"run `{result.get('run')}` left the prompt `{name}` as it was, so that there is nothing to write")
    return name, prompts[name]["seed"], prompts[name]["best"]


@click.command("apply")
@click.argument("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--prompt", help="Name of the prompt's resource; not needed where the run changed one alone.")
@click.option("--dry-run", is_flag=True, help="Show the diff and write nothing.")
@store_option
def apply(run: str, file: Path, prompt: str | None, dry_run: bool, store: str | None) -> None:
    """Write the prompt that RUN found into FILE, in place of the old one; shows the diff.

    RUN is a run's id, its folder, or its result.json. FILE must hold the old text exactly once: in Python as a string of any form, in JSON as a
    string, in any other file as it is.
    """
    name, old, new = _chosen(read_result(run, store), prompt)
    try:
        before = file.read_bytes().decode()  # line ends stay as they are
    except UnicodeDecodeError as error:
        raise ApplyError(f"`{file}` is no text in UTF-8: {error}") from error
    try:
        after = replaced(before, old, new, file.suffix)
    except ApplyError as error:
        raise ApplyError(f"`{name}` cannot be put into `{file}`: {error}") from error
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), str(file), str(file), lineterm=""):
        click.echo(line)
    if dry_run:
        click.echo(f"nothing is written; without --dry-run `{name}` goes into {file}")
        return
    _write(file, after)
    click.echo(f"`{name}` is in {file}")


def _write(file: Path, content: str) -> None:
    """The whole file or nothing of it; a link stays one, permissions stay."""
    target = file.resolve()
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(content.encode())
    os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
    os.replace(partial, target)
