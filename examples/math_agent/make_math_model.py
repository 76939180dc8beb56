"""Makes the embedded model: an ordinary Hugging Face directory with a tiny Llama and its tokenizer, trained by imitation on `habits.py`.

    python examples/math_agent/make_math_model.py --output examples/math_agent/model

It reads the prompts of all four frameworks and copies numbers well, but knows the calculator only by halves.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import chain
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the folder `examples`, for what its agents share

from habits import SHAPES, Turn, make_corpus
from imitation import END, Row, imitate, new_model, save, train_tokenizer

LONGEST = 640
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
# Tools and calls as Hermes and Qwen models have them, without the instruction in words, which so small a model could not read.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'tool' %}{{ '<tool_response>\\n' + message.content + '\\n</tool_response>' }}{% else %}{{ message.content }}{% endif -%}
{%- if loop.first and tools %}
{{- '\\n<tools>' }}{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}{{ '\\n</tools>' }}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{%- if message.content or not loop.first %}{{ '\\n' }}{% endif -%}
{{ '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
_TOKENIZER_TURNS = 4_000


def main() -> None:
    """Makes corpus, tokenizer and model and writes them out."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.process_time()
    corpus = make_corpus(arguments.conversations, seed=arguments.seed)
    tokenizer = train_tokenizer(texts(corpus), arguments.vocabulary, CHAT_TEMPLATE, longest=LONGEST, added=MARKS)
    model = new_model(tokenizer, arguments.hidden, arguments.layers)
    rows = [row for conversation in corpus for row in encode(tokenizer, conversation)]
    print(f"{len(corpus)} conversations, {len(rows)} rows, longest {max(len(row.ids) for row in rows)} tokens")
    loss = imitate(
        model, rows, batch_size=arguments.batch, learning_rate=arguments.learning_rate, seed=arguments.seed, pack_tokens=arguments.pack
    )
    options = {name: content for name, content in vars(arguments).items() if name not in ("output", "threads")}
    script = "examples/math_agent/make_math_model.py"
    save(model, tokenizer, arguments.output, script=script, options=options, loss=loss, cpu_seconds=time.process_time() - started)


def texts(corpus: list[list[Turn]]) -> list[str]:
    """What the tokenizer is trained on: the messages, and each framework's tools as often as its conversations."""
    tools = {framework: json.dumps(shape["tools"]) for framework, shape in SHAPES.items()}
    turns = list(chain.from_iterable(corpus))[:_TOKENIZER_TURNS]
    return ["system\n", "user\n", "assistant\n", "tool\n"] + [
        text for turn in turns for text in (tools[turn.framework], *(message["content"] for message in turn.messages), turn.reply)
    ]


def encode(tokenizer: PreTrainedTokenizerFast, conversation: list[Turn]) -> list[Row]:
    """Turns a conversation into rows, just as a server would build the prompts: a turn goes on in the row of the one that it extends."""
    rows: list[Row] = []
    for turn in conversation:
        ids = _prompt_ids(tokenizer, turn)
        reply = tokenizer(turn.reply + END, add_special_tokens=False)["input_ids"]
        learned = [False] * len(ids) + [True] * len(reply)
        if rows and ids[: len(rows[-1].ids)] == rows[-1].ids:
            learned[: len(rows[-1].ids)] = rows[-1].learned
            rows.pop()
        rows.append(Row(turn.framework, ids + reply, learned))
    return rows


def _prompt_ids(tokenizer: PreTrainedTokenizerFast, turn: Turn) -> list[int]:
    tools = SHAPES[turn.framework]["tools"]
    return tokenizer.apply_chat_template(turn.messages, tools=tools, add_generation_prompt=True, return_dict=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the embedded model of the math agent.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model", help="the directory to write")
    parser.add_argument("--conversations", type=int, default=16_000, help="conversations in the corpus, each seen once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=800)
    parser.add_argument("--pack", type=int, default=768, help="tokens in a pack of rows")
    parser.add_argument("--batch", type=int, default=2, help="packs of rows in a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
