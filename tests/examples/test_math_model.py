"""The embedded model of the math agent is small, says how it was made, and its template keeps token ids."""

import json
import random
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "math_agent"
sys.path.insert(0, str(EXAMPLE))

from habits import SHAPES, converse  # noqa: E402
from problems import BY_NAME, draw_problem, templates  # noqa: E402

MODEL = EXAMPLE / "model"


def test_the_model_is_small_and_says_how_it_was_made():
    record = json.loads((MODEL / "made_by.json").read_text())
    assert record["command"].startswith("python examples/math_agent/make_math_model.py --conversations")
    assert 400_000 < record["parameters"] < 900_000
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 10_000_000


def test_the_model_renders_a_call_as_it_was_sampled_so_that_ids_go_on():
    transformers = pytest.importorskip("transformers")
    tools_of_grpo = pytest.importorskip("agl_grpo.tools")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    for framework, shape in SHAPES.items():
        problem = draw_problem(BY_NAME["sum"], templates(BY_NAME["sum"])["train"][0], "train", random.Random(1))
        first, last = next(turns for seed in range(9) if len(turns := list(converse(framework, problem, random.Random(seed)))) == 2)

        def ids(messages, tools=shape["tools"]):
            return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, return_dict=False)

        sampled = tokenizer(first.reply + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        content, (call,) = tools_of_grpo.split_tool_calls(tokenizer.decode(sampled, skip_special_tokens=True), "c")
        echoed = {"function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        again = [*first.messages, {"role": "assistant", "content": content, "tool_calls": [echoed]}, last.messages[-1]]
        begun = [*ids(first.messages), *sampled]
        assert ids(again)[: len(begun)] == begun
