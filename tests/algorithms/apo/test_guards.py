import pytest

from agl_apo.search import GuardOptions
from agl_apo.search.guards import check_copy, check_growth, check_placeholders, check_required, normalised_hash, placeholders, refusal


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("no braces", set()),
        ("{a} and {b.c[0]} and {d!r:>{width}}", {"a", "b.c[0]", "d", "width"}),
        ('JSON like {{"key": {value}}}', {"value"}),
        ("{{only}} {{escaped}}", set()),
        ("{} by place", {""}),
    ],
)
def test_placeholders_are_those_of_str_format(text, names):
    assert placeholders(text) == names


@pytest.mark.parametrize("text", ["a { alone", "a } alone", "{unclosed", "{a!}"])
def test_a_text_that_cannot_be_filled_in_has_no_placeholders(text):
    assert placeholders(text) is None
    assert "cannot be filled in" in check_placeholders("{a}", text)


def test_exactly_the_placeholders_of_the_seed_are_kept():
    assert check_placeholders("Do {task} in {style}.", "In {style}, do {task}; then {task} again.") is None
    missing = check_placeholders("Do {task} in {style}.", "Do it.")
    assert missing == "the placeholders {style}, {task} are missing; keep {style}, {task} exactly as in the old text"
    assert "the placeholder {name} is new" in check_placeholders("Do {task}.", "Do {task}, {name}.")
    assert "no placeholder can be filled in" in check_placeholders("Do it.", "Do {it}.")


def test_escaped_braces_are_no_placeholders():
    assert check_placeholders("Do {task}.", 'Do {task}, answer {{"x": 1}}.') is None


def test_a_seed_that_is_no_template_is_not_checked():
    assert check_placeholders("Answer with a { first.", "Answer {anything} you like {") is None


def test_required_literals_must_stay():
    assert check_required("Call search_db first.", ["search_db"]) is None
    assert check_required("Call it.", ["search_db", "it"]) == "these must stay in the text, word for word: 'search_db'"


def test_growth_is_capped_and_short_prompts_may_grow():
    assert check_growth("short", "x" * 2000, 2.0) is None
    assert "at most 2000" in check_growth("short", "x" * 2001, 2.0)
    assert check_growth("x" * 3000, "x" * 6000, 2.0) is None
    assert "at most 6000" in check_growth("x" * 3000, "x" * 6001, 2.0)


def test_texts_that_differ_in_white_space_and_capitals_are_the_same():
    assert normalised_hash(["Do  it\nnow", "b"]) == normalised_hash(["do it now ", "B"])
    assert normalised_hash(["ab", "c"]) != normalised_hash(["a", "bc"])
    assert normalised_hash(["\ud800"])


def test_what_is_copied_from_a_training_record_is_refused():
    record = "Q: The capital of the old kingdom of Bohemia was called? A: Prague"
    copied = "Remember: the capital of the old kingdom of Bohemia was called Prague."
    assert "copied from a training example" in check_copy("Answer.", copied, [record], 8)
    assert check_copy(copied, copied + " Be brief.", [record], 8) is None
    assert check_copy("Answer.", "Name the capital of Bohemia.", [record], 8) is None


def test_the_first_refusal_is_told():
    options = GuardOptions(required={"p": ("keep me",)}, copy_words=3)
    assert "missing" in refusal(options, "p", "{a} keep me", "{a} keep me", "nothing")
    assert "word for word" in refusal(options, "p", "{a} keep me", "{a} keep me", "{a}")
    assert "copied" in refusal(options, "p", "{a} keep me", "{a} keep me", "{a} keep me one two three", ["one two three"])
    assert refusal(options, "p", "{a} keep me", "{a} keep me", "{a} keep me better", ["one two three"]) is None


def test_braces_of_a_plain_prompt_are_text():
    assert refusal(GuardOptions(plain=("p",)), "p", "{a}", "{a}", "anything {b} {") is None
    assert refusal(GuardOptions(plain=("other",)), "p", "{a}", "{a}", "anything") is not None
