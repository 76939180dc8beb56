"""The rows of a plugin's patch table, and of the core's, in this environment: `python tools/patch_rows.py PLUGIN` prints JSON.

Each row is named by its target and tells a digest of the target's source text, and what is wrong with it, if anything is.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import pkgutil
import sys

from agl.builtin import openai_sdk
from agl.patching import Patches


def main() -> None:
    """Print the rows."""
    plugin = f"agl_{sys.argv[1]}"
    tables = [openai_sdk._PATCHES]
    if importlib.util.find_spec(f"{plugin}._patches") is not None:
        tables.append(importlib.import_module(f"{plugin}._patches").PATCHES)
    print(json.dumps({target: row for table in tables for target, row in rows(table).items()}))


def rows(table: Patches) -> dict[str, dict[str, str]]:
    """Digest and problem of each row; other needs of the patches stand under the plugin's name."""
    problems = table.problems()
    found = {patch.target: {"digest": digest(patch.target), "problem": problems.get(patch.target, "")} for patch in table.table}
    other = {f"{table.plugin}: canary": {"digest": "", "problem": problems["canary"]}} if "canary" in problems else {}
    return found | other


def digest(target: str) -> str:
    """Of the source text; empty where there is none."""
    try:
        return hashlib.sha256(inspect.getsource(pkgutil.resolve_name(target)).encode()).hexdigest()[:12]
    except (ImportError, AttributeError, TypeError, OSError):
        return ""


if __name__ == "__main__":
    main()
