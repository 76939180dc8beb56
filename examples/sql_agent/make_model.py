"""Makes the embedded model: an ordinary Hugging Face directory with a tiny Llama and its tokenizer, trained by imitation on `corpus.py`.

    python examples/sql_agent/make_model.py --output examples/sql_agent/model

It reads every question and copies tables, columns and values well, but writes SQL in the mixed dialects of its corpus.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the folder `examples`, for what its agents share

from corpus import Example, make_corpus
from imitation import END, Row, imitate, new_model, save, train_tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_ROLES = {"system": "system", "human": "user", "ai": "assistant"}
_TOKENIZER_EXAMPLES = 8_000


def main() -> None:
    """Makes corpus, tokenizer and model and writes them out."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        examples = make_corpus(Path(folder), arguments.examples, seed=arguments.seed)
    texts = (
        text
        for example in examples[:_TOKENIZER_EXAMPLES]
        for text in ("system\n", "user\n", "assistant\n", *(str(m.content) for m in example.messages), example.reply)
    )
    tokenizer = train_tokenizer(texts, arguments.vocabulary, CHAT_TEMPLATE)
    model = new_model(tokenizer, arguments.hidden, arguments.layers)
    rows = [encode(tokenizer, example) for example in examples]
    loss = imitate(model, rows, batch_size=arguments.batch, learning_rate=arguments.learning_rate, seed=arguments.seed)
    options = {name: content for name, content in vars(arguments).items() if name not in ("output", "threads")}
    script = "examples/sql_agent/make_model.py"
    save(model, tokenizer, arguments.output, script=script, options=options, loss=loss, cpu_seconds=time.process_time() - started)


def encode(tokenizer: PreTrainedTokenizerFast, example: Example) -> Row:
    """Turns an example into token ids, just as a server would build the prompt."""
    messages = [{"role": _ROLES[message.type], "content": message.content} for message in example.messages]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reply = tokenizer(example.reply + END, add_special_tokens=False)["input_ids"]
    schema, question, _ = str(messages[-1]["content"]).partition("\nQuestion:")
    group = f"{example.node}/{schema if question else ''}"
    return Row(group, ids + reply, [False] * len(ids) + [True] * len(reply))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the embedded text-to-SQL model.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model", help="the directory to write")
    parser.add_argument("--examples", type=int, default=50_000, help="examples in the corpus, each seen once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=4, help="packs of rows in a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
