"""The contract of the standard transition: its page and the schema are one."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from agl.export import FORMATS, SCHEMA_VERSION, arrow_schema
from agl.export.schema import FIELDS, REWARD_FIELDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "transition-schema.md").read_text()
TYPES = {"string": pa.string(), "json": pa.string(), "int32": pa.int32(), "float64": pa.float64()}
TYPES |= {f"list<{name}>": pa.list_(found) for name, found in list(TYPES.items())}


def documented(title):
    """Rows of the table below a heading: name, type, whether it may be null, meaning."""
    [section] = re.findall(rf"^## {title}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \| `([\w<>]+)` \| (yes|no) \| (.+) \|$", section, re.MULTILINE)
    return [(name, kind, null == "yes", meaning) for name, kind, null, meaning in rows]


def arrow_fields(rows):
    return [pa.field(name, TYPES[kind], nullable=null) for name, kind, null, _ in rows]


def test_the_page_lists_the_columns_with_the_types_that_files_have():
    rows = documented("Fields")
    reward = pa.list_(pa.struct(arrow_fields(documented("`reward`"))))
    TYPES["list<reward>"] = reward
    assert pa.schema(arrow_fields(rows)).equals(arrow_schema())
    assert len(rows) == len(arrow_schema())


def test_the_page_says_of_each_column_what_the_code_says():
    assert documented("Fields") == [tuple(field) for field in FIELDS]
    assert documented("`reward`") == [tuple(field) for field in REWARD_FIELDS]


def test_the_page_and_the_files_name_the_same_version():
    assert f"Version **{SCHEMA_VERSION}** of the schema" in PAGE
    assert arrow_schema().metadata == {b"agl.schema_version": str(SCHEMA_VERSION).encode()}


def test_the_page_names_every_format_with_its_suffixes_and_columns():
    [section] = re.findall(r"^## Other formats\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    for name, found in FORMATS.items():
        [line] = [line for line in section.splitlines() if line.startswith("| `") and f"`{name}`" in line]
        assert [text for text in (*found.suffixes, *found.columns) if text and f"`{text}`" not in line] == []


def test_the_example_of_the_page_runs(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    import pyarrow.parquet as pq

    row = {"untrained": None, "role": "writer", "reward": 0.5, "prompt_ids": [1], "response_ids": [2], "logprobs": [-0.5]}
    pq.write_table(pa.Table.from_pylist([row, {**row, "untrained": "frozen"}]), tmp_path / "run.parquet")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "writer 0.5 [1] [2] [-0.5]\n", done.stderr
