"""Proposer: a critic says why rollouts went badly, an editor puts the answer into the prompt.

After ProTeGi (Pryzant et al., arXiv 2305.03495): the criticism is the textual gradient, the edit is the step against it. Failures
come first with successes for contrast, one prompt is criticised at a time by the records of its own calls, ideas have labels, and ideas that
did not help are told.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from agl.chat import ChatModel, Messages
from agl.errors import ConfigError
from agl.resources import PromptTemplate
from agl_apo.moves import Proposal, Propose, Rejected, Repair
from agl_apo.records import is_plain, role_of

T = TypeVar("T")
IDEAS = 2
"""Ideas that a critic is asked for; proposals that are made at the same time take different ones."""
_HOLE = re.compile(r"\{\{(\w+)\}\}")
_IDEA = re.compile(r"<idea>(.*?)(?:</idea>|(?=<idea>)|\Z)", re.DOTALL)
_FENCE = re.compile(r"\A```[\w-]*\n(.*?)\n?```\Z", re.DOTALL)
FILES = {
    "critique": frozenset({"name", "kind", "prompt", "others", "failures", "successes", "rejected", "ideas", "mark"}),
    "edit": frozenset({"name", "kind", "prompt", "label", "why", "change", "placeholders", "mark"}),
    "repair": frozenset({"name", "kind", "prompt", "new", "reason", "placeholders", "mark"}),
}
"""The proposer's own prompts, with the names that stand in `{{…}}` there."""
NEEDED = {"critique": {"prompt", "failures"}, "edit": {"prompt", "change"}, "repair": {"new", "reason"}}


class Idea(msgspec.Struct, frozen=True, kw_only=True):
    """What a critic proposes."""

    label: str
    why: str = ""
    change: str = ""


class Proposer:
    """Writes new texts for prompts.

    Args:
        critic: finds what is wrong.
        editor: writes the prompt anew.
        files: own texts of `critique`, `edit`, `repair`, in place of those of this package.

    Raises:
        ConfigError: a file cannot be read, or lacks a name in `{{…}}` that it needs.
    """

    def __init__(self, critic: ChatModel, editor: ChatModel, files: Mapping[str, str | Path | None] | None = None) -> None:
        self.critic, self.editor = critic, editor
        self._files = {name: _read(name, (files or {}).get(name)) for name in FILES}

    @property
    def cost(self) -> float:
        """What has been asked so far cost, failures included."""
        return sum(model.usage.cost for model in (self.critic, self.editor))

    async def propose(self, move: Propose, failures: Sequence[str], successes: Sequence[str]) -> Proposal:
        """A new text for one prompt of the parent.

        Args:
            failures: texts of the records that went badly.
            successes: texts of those that went well.

        Raises:
            ModelError: critic or editor cannot be reached.
        """
        asked = _Asked(move.component, move.parent.texts[move.component], [*failures, *successes, *move.parent.texts.values()])
        request = asked.fill(
            self._files["critique"],
            others=_others(move, asked.mark),
            failures=_blocks(failures, asked.mark, "bad"),
            successes=_blocks(successes, asked.mark, "good"),
            rejected=_rejected(move.rejected),
            ideas=str(IDEAS),
        )
        ideas, cost = await _parsed(self.critic, request, read_ideas)
        if isinstance(ideas, str):
            return Proposal(text=None, cost=cost, error=f"the critic's answer cannot be read: {ideas}")
        idea = ideas[move.number % len(ideas)]
        request = asked.fill(self._files["edit"], label=idea.label, why=idea.why, change=idea.change)
        written, more = await _parsed(self.editor, request, read_prompt)
        return _proposal(written, idea.label, cost + more)

    async def repair(self, move: Repair, hypothesis: str) -> Proposal:
        """The text again, mended as the guard wants it.

        Raises:
            ModelError: the editor cannot be reached.
        """
        name = move.asked.component
        asked = _Asked(name, move.asked.parent.texts[name], [move.text])
        written, cost = await _parsed(self.editor, asked.fill(self._files["repair"], new=move.text, reason=move.reason), read_prompt)
        return _proposal(written, hypothesis, cost)


class _Asked:
    """What every request about one prompt holds."""

    def __init__(self, name: str, prompt: str, data: Sequence[str]) -> None:
        self.name, self.prompt = name, prompt
        self.mark = _mark([prompt, *data])

    def fill(self, file: str, **values: str) -> str:
        known = {"name": self.name, "kind": _kind(self.name), "prompt": self.prompt, "mark": self.mark}
        known = {**known, "placeholders": _placeholders(self.name, self.prompt), **values}
        return _HOLE.sub(lambda hole: known[hole.group(1)], file)  # once: what is put in is not looked at again


def read_ideas(answer: str) -> list[Idea] | str:
    """The ideas in a critic's answer, or what is wrong with it."""
    ideas: list[Idea] = []
    for body in _IDEA.findall(answer):
        label, why, change = (_tag(name, body) for name in ("label", "why", "change"))
        if label or change:
            ideas.append(Idea(label=" ".join((label or change).split())[:200], why=why, change=change or label))
    return ideas or "it has no <idea>…</idea> with a <label> and a <change>"


def read_prompt(answer: str) -> list[str] | str:
    """The text in an editor's answer as the only item, or what is wrong with it."""
    start, end = answer.find("<prompt>"), answer.rfind("</prompt>")
    if start < 0:
        return "it has no <prompt>…</prompt>"
    text = answer[start + len("<prompt>") : end if end > start else len(answer)].strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1).strip()
    return [text] if text else "its <prompt> is empty"


async def _parsed(model: ChatModel, request: str, read: Callable[[str], list[T] | str]) -> tuple[list[T] | str, float]:
    """What was read of an answer, or why it could not be, after one request to mend it; and the cost."""
    messages: Messages = [{"role": "user", "content": request}]
    answer = await model.ask(messages)
    found = read(answer.text)
    if not isinstance(found, str):
        return found, answer.cost
    mend = {"role": "user", "content": f"That cannot be read: {found}. Answer again in the form that was asked for."}
    again = await model.ask([*messages, {"role": "assistant", "content": answer.text}, mend])
    return read(again.text), answer.cost + again.cost


def _proposal(written: list[str] | str, hypothesis: str, cost: float) -> Proposal:
    if isinstance(written, str):
        return Proposal(text=None, hypothesis=hypothesis, cost=cost, error=f"the editor's answer cannot be read: {written}")
    return Proposal(text=written[0], hypothesis=hypothesis, cost=cost)


def _read(name: str, given: str | Path | None) -> str:
    path = Path(__file__).parent / "prompts" / f"{name}.md" if given is None else Path(given)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{name}_prompt` must be a file of text; `{path}` cannot be read: {error}") from error
    used = set(_HOLE.findall(text))
    if unknown := sorted(used - FILES[name]):
        raise ConfigError(f"`{path}` asks for {unknown}; what can stand in {{{{…}}}} there is {sorted(FILES[name])}")
    if missing := sorted(NEEDED[name] - used):
        raise ConfigError(f"`{path}` must hold {missing} in {{{{…}}}}; without them the model does not know what to work on")
    return text


def _mark(data: Sequence[str]) -> str:
    """A word that stands in none of the data: the same for the same data, so that a run can be repeated."""
    number = 0
    while (word := "data-" + hashlib.sha256(f"{number}".encode() + "\0".join(data).encode(errors="replace")).hexdigest()[:8]) in "\0".join(
        data
    ):
        number += 1
    return word


def _kind(name: str) -> str:
    role = role_of(name)
    if not role:
        return "a template that the agent's own code fills in and sends"
    if ".tools." in name:
        return f"the description of a tool, as the agent `{role}` reads it"
    return f"the {name.rpartition('.')[2].replace('_', ' ')} of the agent `{role}`"


def _placeholders(name: str, prompt: str) -> str:
    if is_plain(name, prompt):
        return ""
    try:
        found = sorted(PromptTemplate(template=prompt).placeholders())
    except ValueError:
        return ""
    doubled = "Write {{ and }} where a brace is meant as text."
    if not found:
        return f"The text is filled in by Python's `str.format` and has no placeholders; add none. {doubled}"
    kept = ", ".join(f"{{{each}}}" for each in found)
    return f"The text is filled in by Python's `str.format`: keep the placeholders {kept} exactly as they are, and add none. {doubled}"


def _others(move: Propose, mark: str) -> str:
    others = {name: text for name, text in move.parent.texts.items() if name != move.component}
    if not others:
        return ""
    blocks = "\n".join(f"`{name}`:\n<{mark} other>\n{text}\n</{mark}>" for name, text in others.items())
    return f"\nThe agent's other prompts, which are not to be changed now:\n{blocks}\n"


def _blocks(records: Sequence[str], mark: str, kind: str) -> str:
    return "\n".join(f"<{mark} {kind} record {number}>\n{text}\n</{mark}>" for number, text in enumerate(records, 1)) or "(none)"


def _rejected(ideas: Sequence[Rejected]) -> str:
    return "\n".join(f"- {idea.hypothesis or 'an idea without a name'}: {idea.reason}" for idea in ideas) or "(none)"


def _tag(name: str, text: str) -> str:
    found = re.search(rf"<{name}>(.*?)(?:</{name}>|(?=<\w+>)|\Z)", text, re.DOTALL)
    return found.group(1).strip() if found else ""
