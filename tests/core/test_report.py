"""The report is one file that shows what a run has, says what it lacks, and trusts no text in it."""

import asyncio
import builtins
import io
import re
import sys

import pytest
from openai import AsyncOpenAI
from rich.console import Console

import agl
from agl.errors import ConfigError, DataError, NotFoundError
from agl.report import write_report
from agl.report.data import read_lines
from agl.report.intervals import change, estimate, wilson
from agl.report.pairs import by_kind, choose, pairs_of
from agl.report.table import before_after_table
from agl.report.trees import view
from agl.results import Evaluation, RolloutResult
from agl.roles import Roles
from agl.rollouts import Rollout
from agl.spans import Span, SpanKind
from agl.testing.scripted import ScriptedServer

EVIL = "<script>alert('x')</script> & <img src=\"https://example.org/x.png\">"


@agl.rollout
async def answers(task, llm):
    async with AsyncOpenAI() as client:
        with agl.role("write"):
            answer = await ask(client, task["question"])
        agl.emit_reward(0.5, name="parsed")
        with agl.role("check"):
            await ask(client, "is it right? " + "very long " * 100)
    if task["question"] == "broken":
        raise ValueError("<b>no</b> such table")
    return 1.0 if answer == "42" else 0.0


async def ask(client, text):
    found = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    return found.choices[0].message.content


class Learner(agl.Algorithm):
    name = "toy"

    def __init__(self, url, steps=2, evaluates=False, breaks=False):
        self.url, self.steps, self.evaluates, self.breaks = url, steps, evaluates, breaks

    def config(self):
        return {"lr": 0.1, "api_key": "sesame", "options": {"password": "sesame"}, "max_tokens": 77}

    async def start(self, run):
        return {"main_llm": agl.LLM(endpoint=self.url, model="policy", version="0")}

    async def fit(self, run):
        for step in run.steps(self.steps):
            groups = await run.rollout(run.train.sample(2), n=2)
            rewards = [reward for group in groups for reward in group.rewards]
            await run.publish(metrics={"reward": sum(rewards) / 4, "reward_interval": 0.3, "loss": 0.25 * step})
            Learner.skilled = True
            if self.evaluates:
                await run.evaluate()
            if self.breaks:
                raise RuntimeError("out of memory")


def script(body):
    question = body["messages"][-1]["content"]
    return "CORRECT" if question.startswith("is it right") else "42" if Learner.skilled and question != "hard" else EVIL


def fit(store, *, test=None, val=None, **options):
    Learner.skilled = False
    with ScriptedServer(script, weight_version="1") as server:
        trainer = agl.Trainer(algorithm=Learner(server.base_url(), **options), store=store, roles={"check": "freeze"}, quiet=True)
        return trainer.fit(answers, tasks("a", "b", "c"), val, test_dataset=test)


def tasks(*questions, kind="easy"):
    return [{"question": question, "kind": kind} for question in questions]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a test set, seen before and after, and its page."""
    store = tmp_path_factory.mktemp("finished") / "store.sqlite"
    result = fit(store, val=tasks("v"), evaluates=True, test=[*tasks("t", "u", "broken"), *tasks("hard", "w", kind="odd")])
    return result, result.report().read_text()


def test_the_page_and_the_curve_lie_in_the_folder_of_the_run(finished):
    result, _ = finished
    assert (result.directory / "report.html").is_file()
    assert (result.directory / "report.png").read_bytes().startswith(b"\x89PNG")


def test_another_path_is_taken_with_its_folders(finished, tmp_path):
    result, _ = finished
    path = write_report(result.store, result.run_id, tmp_path / "new" / "mine.html")
    assert path == tmp_path / "new" / "mine.html"
    assert path.with_suffix(".png").is_file()


def test_the_headline_has_both_means_with_interval_and_change(finished):
    _, page = finished
    text = " ".join(re.sub(r"<[^>]+>", " ", page).replace("&nbsp;", " ").split())
    assert "Mean reward on the test set Before untrained 0.000 95 %: 0.000 to 0.434" in text
    assert "After step 2 0.600 95 %: 0.231 to 0.882 Change +0.600" in text
    assert "Of 5 tasks, 3 got better, 2 stayed the same and 0 got worse." in text


def test_the_page_refers_to_nothing_outside_itself(finished):
    _, page = finished
    tags = " ".join(re.findall(r"<[a-zA-Z/!][^>]*>", page))
    style = page[page.index("<style>") : page.index("</style>")]
    assert not re.search(r"\b(src|href|srcset|action|poster)\s*=", tags)
    assert not re.search(r"url\(|@import|http", style)
    assert "<script" not in tags
    assert "<link" not in tags
    assert "default-src 'none'" in page


def test_text_of_agents_and_models_is_escaped(finished):
    _, page = finished
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "<script>" not in page


def test_the_error_of_an_agent_is_shown_and_escaped(tmp_path):
    page = fit(tmp_path / "store.sqlite", test=tasks("t", "broken"), steps=1).report().read_text()
    assert "<b>no</b>" not in page
    assert "ValueError: &lt;b&gt;no&lt;/b&gt; such table" in page
    assert "failed: agent" in page


def test_secrets_of_the_configuration_are_not_shown(finished):
    _, page = finished
    assert "sesame" not in page
    assert "77" in page


def test_a_call_says_whether_it_is_trainable_and_why_not(finished):
    _, page = finished
    assert '<span class="yes">trainable</span>' in page
    assert "role `check` is frozen" in page
    assert "parsed = 0.500" in page


def test_the_table_by_kind_is_there_only_when_tasks_have_the_field(finished, tmp_path):
    result, page = finished
    assert "By kind of task" in page
    other = write_report(result.store, result.run_id, tmp_path / "r.html", by="colour").read_text()
    assert "of task</h2>" not in other


def test_failed_attempts_are_counted_by_class_and_mode(finished):
    _, page = finished
    table = page[page.index("<h2>Failures</h2>") :]
    heads = re.findall(r'class="num">(\w+)</th>', table[: table.index("</thead>")])
    row = table[table.index('<th scope="row">agent</th>') :]
    cells = re.findall(r'class="num">(\d+)</td>', row[: row.index("</tr>")])
    assert dict(zip(heads, cells, strict=True)) == {"test": "2", "train": "0", "val": "0"}


def test_the_curve_has_a_title_and_names_its_axes_and_series(finished):
    _, page = finished
    assert '<title id="wide-title">Learning curve: mean reward by steps finished</title>' in page
    for text in (">steps finished<", ">mean reward<", "validation set", "test set, before and after"):
        assert text in page


async def test_a_report_is_written_inside_a_running_loop(finished, tmp_path):
    result, _ = finished
    assert write_report(result.store, result.run_id, tmp_path / "r.html").is_file()


def test_a_run_that_broke_off_says_what_is_missing(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path / "store.sqlite", test=tasks("t"), breaks=True)
    page = write_report(tmp_path / "store.sqlite", only_run(tmp_path)).read_text()
    assert "its status is “failed” after 1 step." in page
    assert "no test reward after learning yet" in page
    assert '<polyline class="train"' in page


def test_a_run_without_evaluations_shows_its_latest_rollouts(tmp_path):
    result = fit(tmp_path / "store.sqlite", steps=1)
    page = result.report().read_text()
    assert "Nothing was evaluated" in page
    assert page.count('<article class="task">') == 3


def test_a_run_without_steps_or_rollouts_has_a_page(tmp_path):
    result = fit(tmp_path / "store.sqlite", steps=0)
    page = result.report().read_text()
    assert "no learning curve yet" in page
    assert "None of 0 rollouts failed." in page


def test_without_a_test_set_the_validation_set_is_compared_and_said_to_be(tmp_path):
    result = fit(tmp_path / "store.sqlite", val=tasks("v", "x"), evaluates=True)
    page = result.report().read_text()
    assert "Mean reward on the validation set" in page
    assert "No test set was given" in page


def test_an_unknown_run_or_store_is_said_and_no_store_is_made(finished, tmp_path):
    result, _ = finished
    with pytest.raises(NotFoundError, match="no run `run-x`"):
        write_report(result.store, "run-x")
    with pytest.raises(NotFoundError, match="no store at"):
        write_report(tmp_path / "none.sqlite", "run-x")
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_extra_says_what_to_install(monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=re.escape('pip install "agl-core[report]"')) as raised:
        write_report(tmp_path / "store.sqlite", "run-x")
    assert f"`{missing}`" in str(raised.value)


def test_the_package_is_imported_without_its_extras(monkeypatch):
    real = builtins.__import__

    def guarded(name, *args, **kwargs):
        assert name.split(".")[0] not in ("jinja2", "matplotlib")
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("agl.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", guarded)
    import agl.report
    import agl.report.table  # noqa: F401


def test_a_last_line_that_was_cut_off_is_left_out_and_another_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    assert read_lines(path) == [{"step": 1}]
    path.write_text('{"ste\n{"step": 1}\n')
    with pytest.raises(DataError, match="line 1 of"):
        read_lines(path)


# Intervals: Wilson's values are those of R's `prop.test(x, n, correct = FALSE)`.


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_are_the_published_ones(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", range(1, 60))
def test_wilson_intervals_of_none_and_all_hold_their_mean(n):
    assert wilson(0, n)[0] == 0
    assert wilson(n, n)[1] == 1


def test_rewards_between_0_and_1_get_a_normal_interval():
    found = estimate([0.0, 0.5, 1.0, 0.5])
    assert (found.mean, found.n) == (0.5, 4)
    assert found.high - found.mean == pytest.approx(1.96 * (0.5 / 3) ** 0.5 / 2, rel=1e-3)
    assert estimate([0.3]).low is None
    assert estimate([]) is None


def test_the_change_of_a_few_tasks_that_all_got_better_keeps_a_wide_interval():
    found = change([0, 0, 0], [1, 1, 1])
    assert found.mean == 1
    assert found.low < 0.2
    assert change([0.0, 1.0], [1.0, 0.0]).mean == 0
    assert change([], []) is None


# Before and after.


def result_of(question, reward, kind="k", **data):
    task = agl.Task(task_id=question, data={"question": question, "kind": kind, **data})
    given = () if reward is None else (agl.Reward(value=reward),)
    return RolloutResult(rollout=Rollout(rollout_id=question, run_id="r", task=task, group_id="g"), rewards=given)


def evaluation_of(*results, step=0):
    return Evaluation(results=results, mode="test", step=step, resources_version=step)


def both(*rows):
    """Evaluations from rows of question, kind, reward before, reward after."""
    before = evaluation_of(*(result_of(question, old, kind) for question, kind, old, _ in rows))
    return before, evaluation_of(*(result_of(question, new, kind) for question, kind, _, new in rows), step=9)


def test_tasks_that_rose_most_are_chosen_of_different_kinds_first():
    rows = [("a", "x", 0, 1), ("b", "x", 0, 1), ("c", "y", 0, 0.5), ("d", "z", 1, 0), ("e", "x", 0, None)]
    chosen = choose(pairs_of(*both(*rows)), "kind")
    assert [pair.after.task.task_id for pair in chosen] == ["a", "c", "b"]


def test_any_tasks_are_chosen_when_none_got_better():
    chosen = choose(pairs_of(*both(("a", "x", 1, 0), ("b", "x", None, None), ("c", "x", 1, 1))), "kind")
    assert [pair.after.task.task_id for pair in chosen] == ["c", "a", "b"]


def test_equal_tasks_are_paired_in_their_order():
    pairs = pairs_of(*both(("a", "x", 0, 1), ("a", "x", 1, 1)))
    assert [pair.gain for pair in pairs] == [1, 0]


def test_kinds_have_their_means_and_a_change_over_tasks_with_both_rewards():
    rows = by_kind(*both(("a", "x", 0, 1), ("b", "x", None, 0), ("c", "y", 1, 1)), "kind")
    assert [(row.kind, row.n, row.before.mean, row.after.mean, row.change.mean) for row in rows] == [
        ("x", "1 → 2", 0, 0.5, 1),
        ("y", "1", 1, 1, 0),
    ]


def test_the_table_for_the_terminal_has_kinds_and_the_total_with_interval():
    console = Console(width=80, file=io.StringIO())
    console.print(before_after_table(*both(("a", "[red]x", 0, 1), ("b", "y", 0, 0.5))))
    text = console.file.getvalue()
    for expected in ("[red]x", "before", "after", "change", "all", "+0.750", "+0.26 to +1.24"):
        assert expected in text


# A rollout as a tree.


def span(span_id, kind, parent=None, **attributes):
    common = {"trace_id": "t", "rollout_id": "q", "attempt_id": "a", "started_at": float(len(span_id)), "ended_at": 9.0}
    return Span(span_id=span_id, name=span_id, kind=kind, parent_id=parent, attributes=attributes, **common)


def call(request, response):
    return {"agl.call": {"request": request, "response": response, "choices": [{}]}}


def tree(*spans):
    return view(RolloutResult(rollout=result_of("q", 1).rollout, spans=spans), Roles()).nodes


def test_a_frameworks_view_of_a_call_gives_way_to_the_call():
    llm = call({"messages": [{"role": "user", "content": "hi"}]}, {"choices": [{"message": {"content": "ho"}}]})
    (node,) = tree(span("r", SpanKind.AGENT), span("mm", SpanKind.MODEL, "r", input="hi"), span("lll", SpanKind.LLM, "mm", **llm))
    assert [(child.kind, child.answers[0].text, child.answers[0].untrained) for child in node.children] == [
        ("llm", "ho", "the endpoint gave no token ids")
    ]


@pytest.mark.parametrize(
    ("request_body", "response", "prompt", "answer"),
    [
        ({"prompt": "hi"}, {"choices": [{"text": "ho"}]}, "hi", "ho"),
        (
            {"input": "hi"},
            {"output": [{"type": "message", "content": [{"type": "output_text", "text": "ho"}]}]},
            "hi",
            "ho",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
            {"choices": [{"message": {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}}]},
            "hi",
            '→ f({"x": 1})',
        ),
    ],
)
def test_calls_of_every_interface_show_prompt_and_answer(request_body, response, prompt, answer):
    (node,) = tree(span("l", SpanKind.LLM, **call(request_body, response)))
    assert [message.text for message in node.prompt] == [prompt]
    assert [item.text for item in node.answers] == [answer]


def test_short_inputs_and_outputs_are_shown_and_a_plugins_own_records_are_not():
    attributes = {"agl.input": {"a": 1}, "gen_ai.tool.call.result": "17", "gen_ai.tool.name": "f", "agl.langchain.run_id": "8f"}
    (node,) = tree(span("t", SpanKind.TOOL, **attributes))
    assert [(item.role, item.text) for item in node.details] == [("input", '{"a": 1}'), ("result", "17")]


def test_a_text_is_cut_at_the_limit_and_says_so():
    (node,) = tree(span("o", SpanKind.OBJECT, value="x" * 30_000))
    assert node.details[0].text.endswith("… 10,000 more characters are in the store")


def only_run(folder):
    from agl.store.sqlite import SQLiteStore

    store = SQLiteStore(folder / "store.sqlite")
    try:
        (record,) = asyncio.run(store.runs())
    finally:
        store.close()
    return record.run_id


class Prompts(agl.Algorithm):
    """Tries a prompt, and ends with another."""

    name = "prompts"

    async def fit(self, run):
        await run.publish(prompt=agl.PromptTemplate(template="only a try"))
        await run.publish(prompt=agl.PromptTemplate(template=f"Answer.\n{EVIL}"), metrics={"reward": 1.0})


def test_a_prompt_that_changed_is_shown_as_a_diff_and_no_try_is(tmp_path):
    @agl.rollout
    def silent(task, prompt):
        return 1.0

    prompts = {"prompt": agl.PromptTemplate(template="Answer.\nBe kind."), "same": agl.PromptTemplate(template="unchanged")}
    trainer = agl.Trainer(algorithm=Prompts(), initial_resources=prompts, store=tmp_path / "store.sqlite", quiet=True)
    page = trainer.fit(silent, [{"q": 1}]).report().read_text()
    assert '<p class="kept">Answer.</p><p class="removed">Be kind.</p><p class="added">&lt;script&gt;' in page
    assert "only a try" not in page
    assert "unchanged" not in page
    assert "<script>" not in page
