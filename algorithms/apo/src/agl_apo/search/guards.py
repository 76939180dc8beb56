"""Guards: refusals that cost no rollout.

Each `check_…` gives None, or the reason in words that a proposer can act upon.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Sequence

from agl_apo.search.options import GuardOptions

WORD = re.compile(r"\w+")
ALLOWANCE = 2000
"""Characters that any prompt may grow to, however short its seed is."""


def placeholders(text: str) -> frozenset[str] | None:
    """Names in braces as `str.format` reads them, those inside format specifications included; None when it cannot read the text.

    `{{` and `}}` are braces of the text itself. A field without a name counts as the empty name.
    """
    try:
        return frozenset(_fields(text))
    except ValueError:
        return None


def _fields(text: str) -> Iterable[str]:
    for _, name, specification, _ in string.Formatter().parse(text):
        if name is not None:
            yield name
            yield from _fields(specification or "")


def check_placeholders(seed: str, text: str) -> str | None:
    """A new text has exactly the placeholders of the seed. A seed that `str.format` cannot read is a plain text and is not checked."""
    wanted = placeholders(seed)
    if wanted is None:
        return None
    found = placeholders(text)
    if found is None:
        return "the text cannot be filled in: a `{` or `}` stands alone; write `{{` and `}}` for braces that belong to the text"
    if missing := wanted - found:
        return f"the {_listed(missing)} missing; keep {_braced(wanted)} exactly as in the old text"
    if extra := found - wanted:
        have = f"only {_braced(wanted)} can be filled in" if wanted else "no placeholder can be filled in"
        return f"the {_listed(extra)} new, and {have}; write `{{{{` and `}}}}` for braces that belong to the text"
    return None


def _braced(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return f"placeholder{'s' * (len(found) > 1)} {_braced(found)} {'are' if len(found) > 1 else 'is'}"


def check_required(text: str, required: Iterable[str]) -> str | None:
    """A new text contains every required literal."""
    missing = [literal for literal in required if literal not in text]
    return f"these must stay in the text, word for word: {', '.join(map(repr, missing))}" if missing else None


def check_growth(seed: str, text: str, max_growth: float) -> str | None:
    """A new text is at most `max_growth` times as long as the seed; any text may have `ALLOWANCE` characters."""
    limit = max(int(len(seed) * max_growth), ALLOWANCE)
    return f"the text has {len(text)} characters, at most {limit} are allowed; say the same in fewer words" if len(text) > limit else None


def normalised_hash(texts: Iterable[str]) -> str:
    """Equal for texts that differ in white space and capitals only."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(" ".join(text.lower().split()).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """All runs of `n` words, in small letters."""
    words = WORD.findall(text.lower())
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


def check_copy(old: str, text: str, records: Sequence[str], n: int) -> str | None:
    """A new text has no run of `n` words out of a training record that was not in the old text already."""
    new = ngrams(text, n) - ngrams(old, n)
    for record in records:
        if copied := new & ngrams(record, n):
            return f"this is copied from a training example: {' '.join(min(copied))!r}; say the rule behind it instead"
    return None


def refusal(options: GuardOptions, name: str, seed: str, old: str, text: str, records: Sequence[str] = ()) -> str | None:
    """Why a new text is refused; None when it may be tried.

    Args:
        name: of the prompt.
        seed: the text that the user gave.
        old: the text of the parent.
        text: the new one.
        records: texts of the training records that the proposer saw.
    """
    return (
        (None if name in options.plain else check_placeholders(seed, text))
        or check_required(text, options.required.get(name, ()))
        or check_growth(seed, text, options.max_growth)
        or (check_copy(old, text, records, options.copy_words) if options.copy_words else None)
    )
