"""The page on vLLM: its code makes what it says, and what it names is in the code."""

import re
from pathlib import Path

from agl_grpo import vllm, vllm_server

PAGE = (Path(__file__).parents[2] / "docs" / "vllm.md").read_text()


def test_its_code_runs():
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(compile(code, "docs/vllm.md", "exec"), names)
    assert isinstance(names["algorithm"].engine, vllm.VLLMEngine)


def test_what_it_names_is_what_the_engine_uses():
    code = Path(vllm.__file__).read_text() + Path(vllm_server.__file__).read_text()
    named = [name for name in re.findall(r"`([^`\s]+)", PAGE) if re.match(r"(/|--|VLLM_[A-Z])", name) and not name.startswith("/path")]
    assert len(named) >= 6
    for name in named:
        assert name.removeprefix("--").partition("=")[0] in code, name
    assert [name for name in vllm.WHOLE_DISTRIBUTION if f"`{name}`" not in PAGE] == []
    assert f"one answer of {vllm.PROBE_TOKENS} tokens at temperature {vllm.PROBE_TEMPERATURE}" in PAGE
