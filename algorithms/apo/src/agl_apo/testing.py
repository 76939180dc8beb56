"""A critic and an editor without a language model, for tests and for trying things offline.

They see nothing but the text that they are sent, as a model would: what the records do not show they cannot find.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

NOTHING = "Take care."
"""What the critic says when it recognises nothing."""
_MARKED = re.compile(r"<(data-\w+) ([^>]+)>\n(.*?)\n</\1>", re.DOTALL)


def scripted(
    remedies: Mapping[str, str], *, hit: float = 1.0, guesses: Sequence[str] = (), seed: int = 0
) -> Callable[[dict[str, Any]], str]:
    """Answers for `agl.testing.ScriptedServer`, or for an async function of messages.

    Args:
        remedies: what a prompt has to say, by a regular expression that recognises in a bad record that it is missing.
        hit: how often the critic reads the records; else it proposes two of the `guesses`, whatever the records say.
        guesses: what a critic says that has not understood.
        seed: of its chance. The same request gets the same answer.

    Returns:
        A function of a request's body that gives the text of the answer.
    """

    def answer(body: dict[str, Any]) -> str:
        request = str(body["messages"][0]["content"])
        blocks: dict[str, list[str]] = {}
        for _, kind, text in _MARKED.findall(request):
            blocks.setdefault(kind.split(" record")[0], []).append(text)
        (prompt,) = blocks["prompt"]
        if "new" in blocks:
            return _written(_mended(blocks["new"][0], prompt))
        if "idea" in blocks:
            return _written(f"{prompt} {blocks['idea'][0].splitlines()[-1]}")
        chance = random.Random(hashlib.sha256(f"{seed} {request}".encode()).hexdigest())
        if guesses and chance.random() >= hit:
            return _told([guess for guess in chance.sample(guesses, len(guesses)) if guess not in prompt], "a guess")
        return _ideas(request, prompt, blocks.get("bad", []), remedies)

    return answer


def _ideas(request: str, prompt: str, records: list[str], remedies: Mapping[str, str]) -> str:
    """The remedies that most bad records ask for and the prompt lacks; those that did not help before only when there are no others."""
    tried = request.partition("did not help")[2].partition("What stands between")[0]
    found = {remedy: sum(bool(re.search(symptom, record)) for record in records) for symptom, remedy in remedies.items()}
    able = [remedy for remedy, count in found.items() if count and remedy not in prompt]
    return _told(sorted(able, key=lambda remedy: (remedy in tried, -found[remedy])), "bad records show it")


def _told(ideas: Sequence[str], why: str) -> str:
    return "\n".join(
        f"<idea>\n<label>{idea}</label>\n<why>{why}</why>\n<change>{idea}</change>\n</idea>" for idea in (ideas[:2] or [NOTHING])
    )


def _written(text: str) -> str:
    return f"<prompt>\n{text}\n</prompt>"


def _mended(new: str, old: str) -> str:
    """The new text with the placeholders of the old one."""
    missing = [name for name in re.findall(r"\{\w+\}", old) if name not in new]
    return " ".join([new, *missing])
