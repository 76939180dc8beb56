"""What the generated databases hold and what is asked about them: tables, kinds of question, and the reference query of each.

A question is a kind plus a *combination* (table, columns, wording of the comparison) plus a *value*. Combinations and values are what the splits
in `data.py` are made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal

Slots = dict[str, str]
ValueSource = Literal["number", "count", "length", "group", "year", "category", "parent_category"]


@dataclass(frozen=True)
class Table:
    """One table: `id`, the parent's id if there is one, a label, a category, a date, two numbers and a column with gaps."""

    database: str
    name: str
    plural: str
    label: str
    category: str
    """A text column whose values repeat; a child's label is its category."""
    date: str
    numbers: tuple[tuple[str, int, int], tuple[str, int, int]]
    """Name, least and greatest value; values within a column are unique, so that no ranking has ties."""
    optional: str
    parent: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns that every row fills."""
        return (self.label, self.date) if self.label == self.category else (self.label, self.category)


def _child(database: str, parent: str, names: tuple[str, str, str, str, str], *numbers: tuple[str, int, int]) -> Table:
    name, plural, label, date, optional = names
    return Table(database, name, plural, label, label, date, (numbers[0], numbers[1]), optional, parent)


# Numbers have two digits: enough values to hold some out, and few enough digits for a tiny model to copy.
TABLES = (
    Table("music", "singer", "singers", "name", "city", "born", (("age", 18, 80), ("songs", 10, 99)), "email"),
    _child("music", "singer", ("concert", "concerts", "hall", "held", "note"), ("seats", 20, 99), ("guests", 10, 90)),
    Table("shop", "customer", "customers", "name", "town", "joined", (("points", 10, 99), ("visits", 10, 70)), "phone"),
    _child("shop", "customer", ("sale", "sales", "item", "sold", "remark"), ("price", 10, 99), ("units", 10, 80)),
    Table("school", "student", "students", "name", "house", "entered", (("grade", 10, 60), ("credits", 20, 99)), "tutor"),
    _child("school", "student", ("exam", "exams", "subject", "taken", "comment"), ("score", 20, 99), ("minutes", 10, 90)),
    Table("sport", "player", "players", "name", "team", "signed", (("goals", 10, 70), ("games", 30, 99)), "agent"),
    _child("sport", "player", ("trophy", "trophies", "title", "won", "sponsor"), ("weight", 10, 80), ("worth", 20, 99)),
    Table("library", "author", "authors", "name", "country", "debut", (("books", 10, 70), ("prizes", 10, 60)), "alias"),
    _child("library", "author", ("loan", "loans", "genre", "lent", "reason"), ("pages", 30, 99), ("days", 10, 90)),
    Table("travel", "hotel", "hotels", "name", "region", "opened", (("rooms", 20, 99), ("floors", 10, 60)), "website"),
    _child("travel", "hotel", ("booking", "bookings", "guest", "arrived", "request"), ("nights", 10, 60), ("cost", 30, 99)),
)

_AT_LEAST = {"word": "at least", "op": ">=", "near_op": ">"}
_AT_MOST = {"word": "at most", "op": "<=", "near_op": "<"}
_MORE = {"word": "more than", "op": ">", "near_op": ">="}
_LESS = {"word": "less than", "op": "<", "near_op": "<="}
_HIGHEST = {"most": "highest", "direction": "DESC", "near_direction": "ASC", "function": "max"}
_LOWEST = {"most": "lowest", "direction": "ASC", "near_direction": "DESC", "function": "min"}


@dataclass(frozen=True)
class Kind:
    """One kind of question. `{...}` stands for a slot of the combination, `{v}` for the value."""

    name: str
    phrasings: tuple[str, ...]
    query: str
    near: tuple[str, ...] = ()
    """Queries that run but mean something else; only tasks on which each of them gives another result are kept, so that luck earns no reward."""
    columns: Literal["number", "numbers", "optional", "category", "label", "texts", "category_number", "parent", "date"] = "number"
    words: tuple[Slots, ...] = ({},)
    value: ValueSource | None = None

    @property
    def holds_values_out(self) -> bool:
        """Whether there are enough values for each split to have its own."""
        return self.value not in (None, "length", "group")

    def combinations(self, tables: Sequence[Table] = TABLES) -> Iterator[tuple[Table, Slots]]:
        """Gives every way to fill the slots, all but the value, and the table asked about."""
        by_name = {table.name: table for table in tables}
        for table in tables:
            for columns in _columns(self.columns, table, by_name):
                for word in self.words:
                    yield table, _names(table) | columns | word

    def combination(self, slots: Slots) -> str:
        """Names a combination by the slots that its questions and queries show; the splits of the data share none."""
        shown = {field for text in (*self.phrasings, self.query) for _, field, _, _ in Formatter().parse(text)}
        return "/".join([self.name, *(content for slot, content in slots.items() if slot in shown - {"plural"})])


KINDS = (
    Kind(
        "count_at_least",
        ("How many {plural} have {num} {word} {v}?", "Count the {plural} with {num} {word} {v}."),
        "SELECT count(*) FROM {t} WHERE {num} {op} {v}",
        ("SELECT count(*) FROM {t} WHERE {num} {near_op} {v}",),
        words=(_AT_LEAST, _AT_MOST),
        value="number",
    ),
    Kind(
        "count_more_than",
        ("How many {plural} have {num} {word} {v}?", "Count the {plural} with {num} {word} {v}."),
        "SELECT count(*) FROM {t} WHERE {num} {op} {v}",
        ("SELECT count(*) FROM {t} WHERE {num} {near_op} {v}",),
        words=(_MORE, _LESS),
        value="number",
    ),
    Kind(
        "list_at_least",
        ("Show the {label} of {plural} with {num} {word} {v}.", "Which {plural} have {num} {word} {v}? Show the {label}."),
        "SELECT {label} FROM {t} WHERE {num} {op} {v}",
        ("SELECT {label} FROM {t} WHERE {num} {near_op} {v}",),
        words=(_AT_LEAST, _AT_MOST),
        value="number",
    ),
    Kind(
        "top",
        ("Which {v} {plural} have the {most} {num}? Show the {label}.", "Show the {label} of the {v} {plural} with the {most} {num}."),
        "SELECT {label} FROM {t} ORDER BY {num} {direction} LIMIT {v}",
        ("SELECT {label} FROM {t} ORDER BY {num} {near_direction} LIMIT {v}",),
        words=(_HIGHEST, _LOWEST),
        value="count",
    ),
    Kind(
        "extreme",
        ("Which {t} has the {most} {num}? Show the {label}.", "Show the {label} of the {t} with the {most} {num}."),
        "SELECT {label} FROM {t} ORDER BY {num} {direction} LIMIT 1",
        ("SELECT {label} FROM {t} ORDER BY {num} {near_direction} LIMIT 1",),
        words=(_HIGHEST, _LOWEST),
    ),
    Kind(
        "year",
        ("How many {plural} have {date} in the year {v}?", "Count the {plural} with {date} in {v}."),
        "SELECT count(*) FROM {t} WHERE strftime('%Y', {date}) = '{v}'",
        columns="date",
        value="year",
    ),
    Kind(
        "count_missing",
        (
            "How many {plural} have no {optional}?",
            "Count the {plural} without {optional}.",
            "For how many {plural} is the {optional} unknown?",
            "Count the {plural} that have no {optional}.",
        ),
        "SELECT count(*) FROM {t} WHERE {optional} IS NULL",
        columns="optional",
    ),
    Kind(
        "list_missing",
        (
            "Show the {label} of {plural} without {optional}.",
            "Which {plural} have no {optional}? Show the {label}.",
            "Show the {label} of all {plural} whose {optional} is unknown.",
            "Show the {label} of each {t} that has no {optional}.",
        ),
        "SELECT {label} FROM {t} WHERE {optional} IS NULL",
        columns="optional",
    ),
    Kind(
        "different",
        (
            "How many different {category} values do the {plural} have?",
            "Count the different {category} of the {plural}.",
            "How many different {category} are there among the {plural}?",
            "Count the different {category} values of all {plural}.",
        ),
        "SELECT count(DISTINCT {category}) FROM {t}",
        ("SELECT count({category}) FROM {t}",),
        columns="category",
    ),
    Kind(
        "longer",
        ("How many {plural} have a {label} longer than {v} letters?", "Count the {plural} with {label} longer than {v} letters."),
        "SELECT count(*) FROM {t} WHERE length({label}) > {v}",
        ("SELECT count(*) FROM {t} WHERE length({label}) >= {v}",),
        columns="label",
        value="length",
    ),
    Kind(
        "joined_text",
        (
            "Join {text} and {text2} of all {plural} with a dash.",
            "Show {text} and {text2} of each {t} as one text with a dash.",
            "Show {text} and {text2} of the {plural} with a dash between.",
        ),
        "SELECT {text} || '-' || {text2} FROM {t}",
        columns="texts",
    ),
    Kind(
        "ratio",
        (
            "Show {num} per {num2} of each {t}.",
            "What is the {num} divided by {num2} of all {plural}?",
            "Show {num} divided by {num2} for the {plural}.",
        ),
        "SELECT {num} * 1.0 / {num2} FROM {t}",
        ("SELECT {num} / {num2} FROM {t}",),
        columns="numbers",
    ),
    Kind(
        "groups",
        ("Which {category} have {word} {v} {plural}?", "Show each {category} with {word} {v} {plural}."),
        "SELECT {category} FROM {t} GROUP BY {category} HAVING count(*) {op} {v}",
        ("SELECT {category} FROM {t} GROUP BY {category} HAVING count(*) {near_op} {v}",),
        columns="category",
        words=(_AT_LEAST, _AT_MOST),
        value="group",
    ),
    Kind(
        "by_text",
        ("Show the {num} of {plural} with {category} {v}.", "What is the {num} of each {t} with {category} {v}?"),
        "SELECT {num} FROM {t} WHERE {category} = '{v}'",
        columns="category_number",
        value="category",
    ),
    Kind(
        "average",
        ("What is the average {num} of {plural} with {category} {v}?", "Show the average {num} of all {plural} with {category} {v}."),
        "SELECT avg({num}) FROM {t} WHERE {category} = '{v}'",
        ("SELECT sum({num}) FROM {t} WHERE {category} = '{v}'",),
        columns="category_number",
        value="category",
    ),
    Kind(
        "related",
        (
            "What is the total {num} of {plural} whose {p} has {p_category} {v}?",
            "Add up the {num} of {plural} of a {p} with {p_category} {v}.",
        ),
        "SELECT sum({num}) FROM {t} JOIN {p} ON {p}_id = {p}.id WHERE {p_category} = '{v}'",
        ("SELECT sum({num}) FROM {t} JOIN {p} WHERE {p_category} = '{v}'",),
        columns="parent",
        value="parent_category",
    ),
)


def _names(table: Table) -> Slots:
    return {"t": table.name, "plural": table.plural, "label": table.label, "category": table.category}


def _columns(wanted: str, table: Table, tables: Mapping[str, Table]) -> list[Slots]:
    (first, *_), (second, *_) = table.numbers
    if wanted in ("number", "category_number"):
        return [{"num": first}, {"num": second}]
    if wanted == "numbers":
        return [{"num": first, "num2": second}, {"num": second, "num2": first}]
    if wanted == "texts":
        one, two = table.texts
        return [{"text": one, "text2": two}, {"text": two, "text2": one}]
    if wanted == "parent":
        if table.parent is None:
            return []
        parent = {"p": table.parent, "p_category": tables[table.parent].category}
        return [parent | {"num": first}, parent | {"num": second}]
    return [{"date": table.date, "optional": table.optional}] if wanted in ("date", "optional") else [{}]
