"""Examples for fine-tuning: what TRL and OpenAI get of a run, and what comes back of such files."""

import asyncio
import json

import msgspec
import pytest

from agl.errors import ConfigError, DataError
from agl.export import export_run, import_file
from agl.export.fine_tuning import why_refused
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.store.sqlite import SQLiteStore
from agl.transitions import call_of, transitions_of

SYSTEM, USER = {"role": "system", "content": "You write SQL."}, {"role": "user", "content": "How many?"}
ASKS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "query", "arguments": {"sql": "select 1"}}}],
}
TOOL = {"role": "tool", "content": "1", "tool_call_id": "c1"}


def answer(text):
    return {"role": "assistant", "content": text}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(path, run):
    async def work() -> list[RolloutResult]:
        return await store.results(await store.find(run))

    store = SQLiteStore(path)
    try:
        return asyncio.run(work())
    finally:
        store.close()


@pytest.fixture
def export(maker, tmp_path):
    """Writes the maker's run in a format and reads it again."""

    def export(to, *, config=None, **options):
        store = maker.write(tmp_path / "store.sqlite", **(config or {}))
        done = export_run(store, "run-1", to, tmp_path / "x.jsonl", **options)
        return lines(done.path), done

    return export


def test_sft_gets_whole_conversations_once(maker, export):
    maker.talk("one", 1.0)
    ([line], _) = export("trl-sft")
    assert line["messages"] == [SYSTEM, USER, ASKS, TOOL, answer("one")]
    assert json.loads(line["tools"])[0]["function"]["name"] == "query"


def test_a_client_may_write_an_answer_in_another_way_when_it_sends_it_again(maker, export):
    asks = {"id": "c1", "type": "function", "function": {"name": "query", "arguments": '{"sql":"select 1"}'}}
    again = {**asks, "function": {"name": "query", "arguments": '{ "sql": "select 1" }'}}
    first = maker.call([USER], {"role": "assistant", "content": None, "tool_calls": [asks], "refusal": None})
    second = maker.call([USER, {"role": "assistant", "content": "", "tool_calls": [again]}, TOOL], "one")
    maker.rollout(first, second, reward=1.0)
    ([line], _) = export("openai-jsonl")
    assert [item.get("weight") for item in line["messages"]] == [None, 1, None, 1]
    assert line["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"sql":"select 1"}'


def test_a_call_that_goes_on_from_none_starts_a_conversation(maker, export):
    maker.rollout(maker.call([USER], "a", tools=None), maker.call([SYSTEM], "b", tools=None), reward=1.0)
    found, _ = export("trl-sft")
    assert [line["messages"] for line in found] == [[USER, answer("a")], [SYSTEM, answer("b")]]
    assert [line["tools"] for line in found] == ["null", "null"]


def test_prompt_completion_gets_each_answer_with_its_own_prompt(maker, export):
    maker.talk("one", 1.0)
    maker.rollout(maker.call([USER], "yes", "no"), group="g2")
    found, done = export("trl-prompt-completion")
    assert [(len(line["prompt"]), line["completion"]) for line in found] == [
        (2, [ASKS]),
        (4, [answer("one")]),
        (1, [answer("yes")]),
        (1, [answer("no")]),
    ]
    assert (done.rows, done.rollouts) == (4, 2)


def test_failed_retried_and_frozen_calls_are_no_answers_to_learn(maker, export):
    lost = maker.call([USER], failed=True, call_id="a" * 16)
    early, late = maker.call([USER], "early", call_id="a" * 16), maker.call([USER], "late", call_id="a" * 16)
    maker.rollout(lost, early, late, maker.call([USER], "judged", role="critic"), reward=1.0)
    found, _ = export("trl-prompt-completion", config={"roles": {"critic": "freeze"}})
    assert [line["completion"] for line in found] == [[answer("late")]]


def test_answers_without_tokens_can_be_learned_as_texts(maker, export):
    maker.rollout(maker.call([USER], ("said", None), version=None), reward=1.0)
    assert export("trl-prompt-completion")[0][0]["completion"] == [answer("said")]


def test_grpo_gets_the_first_prompt_of_each_task_once(maker, export):
    for group in ("g1", "g2"):
        maker.talk("one", 1.0, group=group)
        maker.talk("two", 0.0, group=group)
    maker.talk("later", 0.0, group="g3", task={"question": "g1"})
    found, _ = export("trl-grpo")
    assert [(line["prompt"], line["task_id"], json.loads(line["task"])) for line in found] == [
        ([SYSTEM, USER], group, {"question": asked}) for group, asked in (("g1", "g1"), ("g2", "g2"), ("g3", "g1"))
    ]


def test_dpo_compares_siblings_answers_to_the_same_prompt(maker, export):
    maker.talk("one", 1.0)
    maker.talk("two", 0.0)
    maker.talk("same", 0.5, group="g2")
    maker.talk("other", 0.5, group="g2")
    found, done = export("trl-dpo")
    assert [(len(line["prompt"]), line["chosen"], line["rejected"]) for line in found] == [(4, [answer("one")], [answer("two")])]
    assert done.left_out == {"prompts whose answers do not differ, or not in reward": 3}


def test_an_answer_that_several_siblings_gave_counts_with_its_mean(maker, export):
    for said, reward in (("often", 1.0), ("often", 0.0), ("often", 0.2), ("once", 0.6)):
        maker.rollout(maker.call([USER], said), reward=reward)
    ([line], _) = export("trl-dpo")
    assert (line["chosen"], line["rejected"]) == ([answer("once")], [answer("often")])


def test_dpo_says_when_no_reward_allows_a_pair(maker, export):
    maker.talk("one", 1.0)
    maker.talk("two", None, group="g2")
    with pytest.raises(DataError, match=r"as `trl-dpo`: 2 prompts whose answers .*, 2 answers without a reward"):
        export("trl-dpo")


def test_kto_labels_by_the_calls_own_reward(maker, export):
    first, second = maker.call([USER], "one"), maker.call([USER], "two")
    good = Reward(value=0.4, name="style", source="judge", span_id=second.span_id)
    maker.rollout(first, second, reward=0.5, rewards=(good,))
    found, _ = export("trl-kto", label_at=0.8)
    assert [(line["completion"], line["label"]) for line in found] == [([answer("one")], False), ([answer("two")], True)]


def test_images_are_left_out_of_texts_and_counted(maker, export):
    picture = {"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "data:"}}]}
    texts = {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "text", "text": " now?"}]}
    maker.rollout(maker.call([picture], "a"), maker.call([texts], "b"), reward=1.0)
    ([line], done) = export("trl-prompt-completion")
    assert line["prompt"] == [{"role": "user", "content": "what now?"}]
    assert done.left_out == {"examples with images or other content that is no text": 1}


def test_answers_that_are_no_text_are_left_out_of_pairs(maker, export):
    sound = {"role": "assistant", "content": [{"type": "audio", "data": ""}]}
    maker.rollout(maker.call([USER], sound), reward=1.0)
    maker.rollout(maker.call([USER], "x"), reward=0.0)
    with pytest.raises(DataError, match="1 examples with images or other content that is no text"):
        export("trl-dpo")


def test_openai_gets_weights_and_arguments_as_text(maker, export):
    shot = [{"role": "developer", "content": "Be brief."}, USER, {**answer("like this"), "refusal": None}]
    first = maker.call([*shot, USER], {**answer("a"), "refusal": None, "annotations": []}, tools=None)
    maker.rollout(first, reward=1.0)
    maker.talk("one", 1.0, group="g2")
    found, _ = export("openai-jsonl")
    assert found[0] == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            USER,
            {**answer("like this"), "weight": 0},
            USER,
            {**answer("a"), "weight": 1},
        ]
    }
    [call] = found[1]["messages"][2]["tool_calls"]
    assert call["function"]["arguments"] == '{"sql":"select 1"}'
    assert [item.get("weight") for item in found[1]["messages"]] == [None, None, 1, None, 1]
    assert (found[1]["parallel_tool_calls"], found[1]["tools"][0]["type"]) == (False, "function")


def test_openai_learns_each_answer_of_a_fork_once(maker, export):
    begun = [USER, answer("a")]
    first = maker.call([USER], "a")
    maker.rollout(first, maker.call([*begun, USER], "b"), maker.call([*begun, SYSTEM], "c"), reward=1.0)
    found, _ = export("openai-jsonl")
    assert [[item["weight"] for item in line["messages"] if item["role"] == "assistant"] for line in found] == [[1, 1], [0, 1]]


CALLS = {"role": "assistant", "tool_calls": [{"id": "c1"}, {"id": "c2"}], "weight": 1}


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([USER, {**answer("x"), "weight": 1}], None),
        ([USER, CALLS], None),
        ([USER, CALLS, TOOL, {**TOOL, "tool_call_id": "c2"}, {**answer("x"), "weight": 1}], None),
        ([USER, CALLS, TOOL, {**answer("x"), "weight": 1}], "a tool call has no answer"),
        ([USER, TOOL, {**answer("x"), "weight": 1}], "a tool message answers no tool call"),
        ([USER, {**answer("x"), "weight": 0}], "no answer has the weight 1"),
        ([{**answer("x"), "weight": 1}, USER], "the last message is none of the assistant"),
        ([USER, {**answer(""), "weight": 1}], "an answer is empty"),
        ([{"role": "critic", "content": "x"}, {**answer("x"), "weight": 1}], "a message has the role `critic`"),
    ],
)
def test_lines_that_the_api_would_refuse_are_known(messages, why):
    assert why_refused({"messages": messages}) == why


def test_refused_lines_are_left_out_and_counted(maker, export):
    maker.rollout(maker.call([USER, TOOL], "x"), maker.call([USER], "y"), reward=1.0)
    found, done = export("openai-jsonl")
    assert len(found) == 1
    assert done.left_out == {"conversations in which a tool message answers no tool call": 1}


def test_trl_in_parquet_holds_the_same_examples(maker, tmp_path, export):
    import pyarrow.parquet as pq

    maker.talk("one", 1.0)
    maker.talk("two", 0.0)
    found, _ = export("trl-kto", label_at=0.5)
    export_run(tmp_path / "store.sqlite", "run-1", "trl-kto", tmp_path / "x.parquet", label_at=0.5)
    table = pq.read_table(tmp_path / "x.parquet")
    assert str(table.schema.field("prompt").type.value_type) == "extension<arrow.json>"
    rows = [
        {name: list(map(json.loads, row[name])) for name in ("prompt", "completion")} | {"label": row["label"]} for row in table.to_pylist()
    ]
    assert rows == [{name: line[name] for name in ("prompt", "completion", "label")} for line in found]


# Import.


@pytest.mark.parametrize("to", ["trl-sft", "trl-prompt-completion", "trl-dpo", "trl-kto", "openai-jsonl"])
def test_examples_make_a_run_that_gives_the_same_examples(maker, tmp_path, export, to):
    maker.talk("one", 1.0)
    maker.talk("two", 0.0)
    label = {"label_at": 0.5} if to == "trl-kto" else {}
    found, _ = export(to, **label)
    done = import_file(tmp_path / "other.sqlite", tmp_path / "x.jsonl")
    export_run(tmp_path / "other.sqlite", done.run_id, to, tmp_path / "y.jsonl", **label)
    assert lines(tmp_path / "y.jsonl") == found
    assert done.untrained == {"the endpoint gave no token ids": done.answers}


def write(tmp_path, *records, name="in.jsonl"):
    path = tmp_path / name
    path.write_bytes(b"\n".join(map(msgspec.json.encode, records)) if name.endswith("l") else msgspec.json.encode(records[0]))
    return path


def imported(tmp_path, *records, name="in.jsonl", **options):
    done = import_file(tmp_path / "other.sqlite", write(tmp_path, *records, name=name), **options)
    return results(tmp_path / "other.sqlite", done.run_id), done


def test_a_preference_becomes_two_siblings_with_rewards(tmp_path):
    pair = {"prompt": [USER], "chosen": [answer("good")], "rejected": [answer("bad")]}
    found, _ = imported(tmp_path, pair, split="val")
    assert [(result.rollout.group_id, result.rollout.sample, result.reward, result.rewards[0].source) for result in found] == [
        ("import-0", 0, 1.0, "preference"),
        ("import-0", 1, 0.0, "preference"),
    ]
    assert {str(result.rollout.mode) for result in found} == {"val"}
    assert found[0].task.task_id == found[1].task.task_id


def test_examples_without_a_judgement_have_no_reward(tmp_path):
    found, _ = imported(tmp_path, {"prompt": [USER], "completion": [answer("x")]}, {"prompt": "Once", "completion": " upon"})
    assert [result.reward for result in found] == [None, None]
    chat, text = [call_of(result.spans[0]) for result in found]
    assert (chat.request["messages"], chat.response["choices"][0]["message"]) == ([USER], answer("x"))
    assert (text.request, text.dialect, text.response["choices"][0]["message"]["content"]) == ({"prompt": "Once"}, "completions", " upon")


def test_messages_of_weight_0_are_context(tmp_path):
    found, _ = imported(tmp_path, {"messages": [USER, {**answer("shot"), "weight": 0}, USER, answer("x")]})
    [span] = found[0].spans
    assert call_of(span).request["messages"] == [USER, answer("shot"), USER]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"text": "hi"}, r"record 1 of .* cannot be read: it has the fields \['text'\], which is no known form. Known are \['messages'\]"),
        ({"messages": [USER]}, "it holds no message of the assistant"),
        ({"messages": "hi"}, "`messages` must be a list of messages with a `role`"),
        ({"messages": [{"content": "x"}]}, "`messages` must be a list of messages with a `role`"),
        ({"prompt": "x", "completion": [answer("y")]}, "`prompt` is a text and the answer is none"),
        ({"messages": [answer("x")], "tools": "no json"}, "JSON is malformed"),
    ],
)
def test_records_of_no_known_form_are_refused(tmp_path, record, says):
    with pytest.raises(DataError, match=says):
        imported(tmp_path, record)


def test_files_of_no_known_kind_are_refused(tmp_path):
    for name, says in (("no.jsonl", "there is no file"), ("x.txt", "must be .parquet, .arrow, .jsonl or .json")):
        (tmp_path / "x.txt").write_text("")
        with pytest.raises(ConfigError, match=says):
            import_file(tmp_path / "other.sqlite", tmp_path / name)
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"bad.jsonl` cannot be read"):
        import_file(tmp_path / "other.sqlite", tmp_path / "bad.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="there is no rollout in it"):
        import_file(tmp_path / "other.sqlite", tmp_path / "empty.jsonl")


# OpenEnv.


def turn(number=0, **values):
    known = {
        "node_id": f"n{number}",
        "prompt_token_ids": [1, 2],
        "completion_token_ids": [3, 4],
        "per_token_logps": [-0.5, -0.25],
        "loss_mask": [0, 0, 1, 1],
        "request": {"messages": [USER], "tools": None},
        "response": {"choices": [{"message": answer("x"), "finish_reason": "stop"}]},
        "metadata": {"turn": number, "sampling_params": {"temperature": 0.5, "top_p": 0.9}},
    }
    return {**known, **values}


def test_a_training_trace_of_openenv_is_trained_when_its_weights_are_named(tmp_path):
    trace = {"schema_version": 1, "turns": [turn(), turn(1, loss_mask=[0, 0, 0, 0]), turn(2, loss_mask=[0, 0, 1, 0])]}
    ([result], done) = imported(tmp_path, trace, name="in.json", weights_version="step-3")
    first, second, third = transitions_of(result.spans)
    assert (first.prompt_ids, first.response_ids, first.logprobs, first.version) == ((1, 2), (3, 4), (-0.5, -0.25), "step-3")
    assert (first.temperature, first.finish_reason, first.untrained) == (0.5, "stop", None)
    assert call_of(result.spans[0]).request == {"temperature": 0.5, "top_p": 0.9, "messages": [USER]}
    assert second.untrained == "the trace masks it out"
    assert third.untrained == "the trace masks some of its tokens out"
    assert (result.reward, done.answers) == (None, 3)


def test_without_the_version_of_the_weights_nothing_is_trained(tmp_path):
    _, done = imported(tmp_path, {"schema_version": 1, "turns": [turn()]})
    assert done.untrained == {"the endpoint gave no version of its weights": 1}
    assert "not trained: 1, the endpoint gave no version of its weights" in done.summary()


def contract(**values):
    entry = {name: value for name, value in turn().items() if name != "node_id"}
    known = {"schema_version": 1, "task_id": "t1", "task_name": "n", "dataset": "d", "harness": "h", "reward_key": "reward"}
    return {**known, "reward": 0.5, "rewards": {"reward": 0.5, "style": 0.25}, "trace_entries": [entry], "turns": [], **values}


def test_the_harbor_contract_of_openenv_brings_rewards_and_siblings(tmp_path):
    found, _ = imported(tmp_path, contract(), contract(reward=None, rewards={}), contract(task_id="t2"), weights_version="1")
    assert [(result.rollout.group_id, result.rollout.sample, result.reward) for result in found] == [
        ("import-0", 0, 0.5),
        ("import-0", 1, None),
        ("import-1", 0, 0.5),
    ]
    assert {(reward.name, reward.value, reward.source) for reward in found[0].rewards} == {
        ("reward", 0.5, "openenv"),
        ("style", 0.25, "openenv"),
    }
    assert (found[0].task.task_id, found[0].task.data["dataset"]) == ("t1", "d")


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ({"schema_version": 2, "turns": []}, "version 2 of OpenEnv's schema, this agl-core reads 1"),
        ({"turns": [turn(loss_mask=[1, 1])]}, "turn 0 has 2 . 2 tokens, 2 logprobs and a loss mask of 2"),
        ({"turns": [turn(loss_mask=[1, 0, 1, 1])]}, "be 0 over the prompt"),
        ({"turns": [turn(per_token_logps=[-0.5])]}, "1 logprobs"),
        ({"turns": [{"node_id": "n"}]}, "it is no training trace of OpenEnv: Object missing required field"),
    ],
)
def test_traces_that_do_not_fit_are_refused(tmp_path, trace, says):
    with pytest.raises(DataError, match=says):
        imported(tmp_path, trace)
