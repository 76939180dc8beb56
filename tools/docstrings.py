"""Docstrings of the code as Markdown, read from the source: nothing is imported for it."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

SECTIONS = {"Args:": "Takes", "Returns:": "Gives", "Raises:": "Raises", "Yields:": "Yields"}


def markdown(docstring: str) -> str:
    """A docstring with its sections as lists. `name: what it is` becomes an item; lines below it go on with it."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if line.strip() in SECTIONS and not line.startswith(" "):
            section = SECTIONS[line.strip()]
            lines += [f"{section}:", ""]
        elif section and line.startswith("    "):
            lines.append(_item(line.removeprefix("    ")))
        else:
            section = section if not line else ""
            lines.append(line)
    return "\n".join(lines).strip()


def _item(line: str) -> str:
    name, colon, text = line.partition(": ")
    if line.startswith(" "):
        return f"  {line.strip()}"
    return f"- `{name}`: {text}" if colon and re.fullmatch(r"[\w.]+", name) else f"- {line}"


def class_in(path: Path, name: str) -> ast.ClassDef:
    """A class of a module.

    Raises:
        LookupError: the module has no such class.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"{path} has no class {name}")


def methods(cls: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Signature and docstring of every public method and property, in the order they are written."""
    for node in cls.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            yield signature(node), ast.get_docstring(node) or ""


def attributes(body: list[ast.stmt]) -> Iterator[tuple[str, str, str]]:
    """Name, value and docstring of every documented attribute of a class, or constant of a module."""
    for node, below in itertools.pairwise(body):
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)):
            continue
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.value) if node.value else "", inspect.cleandoc(below.value.value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, ast.unparse(node.value), inspect.cleandoc(below.value.value)


def fields(cls: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, type and docstring (empty where it has none) of every field of a record."""
    said = {name: text for name, _, text in attributes(cls.body)}
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.annotation), said.get(node.target.id, "")


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A method as it is called: without `self`, on one line; a property as its name."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    given = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    if "property" in decorators:
        return f"{node.name}{given}"
    arguments = ast.unparse(node.args).partition(", ")[2] if node.args.args else ast.unparse(node.args)
    return f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}{node.name}({arguments}){given}"
