"""The page for plugin authors is followed from its first block to its last."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "write-a-plugin.md").read_text()
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL)


@pytest.mark.timeout(500)
def test_every_block_works_for_a_reader_who_follows_the_page(reader):
    printed, kinds = "", []
    for block in BLOCK.finditer(PAGE):
        kind, text = block["kind"], block["text"]
        kinds.append(kind)
        if kind == "python":
            assert block["file"], f"a block of code names the file that it goes into:\n{text}"
            reader.write(block["file"], text)
        elif kind == "console":
            printed = reader.run(text)
        else:
            assert kind == "text", f"blocks are console, python or text, not `{kind}`"
            for line in text.splitlines():
                assert line in printed, f"`{line}` is not in\n{printed}"
    assert kinds.count("console") > 5
    assert PAGE.count("```") == 2 * len(kinds)


def test_it_fits_on_one_page():
    assert len(PAGE.splitlines()) < 320
