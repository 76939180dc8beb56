"""APO from end to end over HTTP: the prompt that is returned is the one that the model gets, and the result says what it is worth."""

import json
import re

import openai
import pytest
from apo_agent import CAPITALS, MARK, SEED_PROMPT, TEST, TRAIN, VAL, ask, judged, ledger, repeat

import agl
from agl.errors import AglError, ConfigError, NotFoundError
from agl.testing import Reply, ScriptedServer


def result_of(fitted):
    return json.loads((fitted.directory / "result.json").read_text())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One search with everything in it, looked at by many tests."""
    from apo_agent import REMEDIES, obey

    from agl_apo.testing import scripted

    with ScriptedServer(obey) as model, ScriptedServer(scripted(REMEDIES)) as critic:
        apo = agl.APO(endpoint=critic.base_url(), model="critic", max_rollouts=120, probe_tasks=4, price=(1.0, 2.0), agent_price=(3.0, 4.0))
        resources = {"main_llm": model.llm(), "prompt_template": agl.PromptTemplate(template=SEED_PROMPT)}
        store = tmp_path_factory.mktemp("fitted") / "store.sqlite"
        made = agl.Trainer(algorithm=apo, initial_resources=resources, store=store, quiet=True)
        result = made.fit(repeat, TRAIN, VAL, test_dataset=TEST)
        yield result, apo, model, critic


def test_it_finds_both_rules_from_the_records_alone(fitted):
    result, apo, model, _ = fitted
    best = result.resources["prompt_template"].template
    assert [rule in best for rule in (CAPITALS, MARK, "{word}")] == [True, True, True]
    assert apo.get_best_prompt().template == apo.get_best_prompt("prompt_template").template == best
    assert (result.before.mean, result.after.mean) == (0.0, 1.0)
    last = model.requests[-1].body["messages"][0]["content"]
    assert last == best.format(word=re.search(r"plum\d+", last).group())


def test_all_names_are_kept_in_every_version(fitted):
    result, _, model, _ = fitted
    assert set(result.resources.keys()) == {"main_llm", "prompt_template"}
    assert result.resources["main_llm"].endpoint == model.base_url()


def test_the_test_set_is_touched_once_for_the_seed_and_once_for_the_winner(fitted):
    result, _, model, _ = fitted
    asked = [re.search(r"plum\d+", call.body["messages"][0]["content"]) for call in model.requests]
    assert len([found for found in asked if found]) == 2 * len(TEST)
    test = result_of(result)["test"]
    assert (test["seed"]["mean"], test["winner"]["mean"], test["gain"]["n"]) == (0.0, 1.0, len(TEST))
    assert 0.4 < test["gain"]["low"] < test["gain"]["high"] == 1.0


def test_the_result_has_candidates_with_parents_hypotheses_diffs_and_evidence(fitted):
    result, _, _, _ = fitted
    told = result_of(result)
    winner = next(one for one in told["candidates"] if one["id"] == told["winner"])
    parent = next(one for one in told["candidates"] if one["id"] == winner["parent"])
    assert winner["hypothesis"] in (CAPITALS, MARK)
    assert f"+{winner['texts']['prompt_template']}\n" in winner["diff"]
    assert f"-{parent['texts']['prompt_template']}\n" in winner["diff"]
    assert winner["evidence"]["val"]["mean"] == 1.0
    assert len(winner["evidence"]["val"]["rollouts"]) == winner["evidence"]["val"]["rewards"] > 0
    assert (result.directory / "best" / "prompt_template.txt").read_text() == winner["texts"]["prompt_template"]
    assert told["decision"] == "improved"
    assert told["gain"]["p_better"] > 0.9


def test_what_was_spent_is_what_came_to_the_endpoints(fitted):
    result, _, model, critic = fitted
    spent = result_of(result)["spent"]
    assert spent["rollouts"] == len(model.requests) - 2 * len(TEST) <= 120
    usage = [sum(call["usage"][name] for call in calls(result)) for name in ("prompt_tokens", "completion_tokens")]
    assert spent["agent_cost"] == pytest.approx((usage[0] * 3 + usage[1] * 4) / 1e6)
    assert spent["proposer_cost"] > 0
    assert spent["cost"] == pytest.approx(spent["agent_cost"] + spent["proposer_cost"])
    assert spent["proposals"] * 2 == len(critic.requests)


def calls(result):
    """Responses of the search's calls: those of the rollouts in its evidence."""
    import asyncio

    from agl.store.sqlite import SQLiteStore

    ids = [each for one in result_of(result)["candidates"] for split in one["evidence"].values() for each in split["rollouts"]]
    store = SQLiteStore(result.store)
    found = asyncio.run(store.results(ids))
    store.close()
    return [span.attributes["agl.call"]["response"] for each in found for span in each.spans if span.kind == "llm"]


def test_the_summary_says_the_gain_with_its_interval(fitted):
    result, _, _, _ = fitted
    assert re.match(
        r"better prompts for \['prompt_template'\]: validation reward \+1\.000, 95 % interval \+\S+ to \+\S+, P\(better\)", result.summary()
    )
    assert f"+{result.resources['prompt_template'].template}\n" in result.diff("prompt_template")


def test_the_prompt_goes_back_into_the_file_that_it_came_from(fitted, tmp_path):
    from click.testing import CliRunner

    from agl.cli import cli
    from agl_apo.plugin import agl_register_commands

    agl_register_commands(cli)
    file = tmp_path / "my_agent.py"
    file.write_text(f"PROMPT = {SEED_PROMPT!r}\n")
    result, _, _, _ = fitted
    done = CliRunner().invoke(cli, ["apply", result.run_id, str(file), "--store", str(result.store)])
    assert done.exit_code == 0, done.output
    names = {}
    exec(file.read_text(), names)
    assert names["PROMPT"] == result.resources["prompt_template"].template


def test_a_critic_is_sent_nothing_but_the_model_and_the_messages(fitted):
    _, _, _, critic = fitted
    assert {tuple(sorted(call.body)) for call in critic.requests} == {("messages", "model")}


def test_where_nothing_is_to_be_gained_it_stops_after_the_probe(trainer, agents_model):
    best = agl.PromptTemplate(template=f"{SEED_PROMPT} {CAPITALS} {MARK}")
    result = trainer(resources={"prompt_template": best}).fit(repeat, TRAIN, VAL, test_dataset=TEST)
    told = result_of(result)
    assert told["decision"] == "nothing_to_gain"
    assert told["spent"]["rollouts"] < 20
    assert len(agents_model.requests) == told["spent"]["rollouts"] + len(TEST)  # the seed is tested once, not again as the winner
    assert result.after.mean == result.before.mean == 1.0
    assert result.resources["prompt_template"] == best


def test_without_an_idea_that_helps_the_seed_comes_back(trainer, critic):
    critic.answer = lambda body: (
        "<prompt>Repeat: {word}, whatever it is</prompt>"
        if "Write the whole prompt" in body["messages"][0]["content"]
        else "<idea><label>no help</label><change>nothing</change></idea>"
    )
    result = trainer().fit(repeat, TRAIN, VAL)
    assert result.resources["prompt_template"].template == SEED_PROMPT
    assert result.summary().startswith("the prompts stay as they are: ")


def test_the_names_of_the_reference_are_a_budget(trainer):
    sizes = {"gradient_batch_size": 2, "val_batch_size": 6, "beam_width": 2, "branch_factor": 2, "beam_rounds": 1}
    result = trainer(apo={**sizes, "max_rollouts": None}).fit(repeat, TRAIN, VAL)
    assert result_of(result)["spent"]["rollouts"] <= 12 + 4 * 2 + (1 + 4) * 6 + 12


def test_the_beam_takes_as_many_rollouts_as_its_formula_says(critic, agents_model, tmp_path):
    sizes = {"gradient_batch_size": 2, "val_batch_size": 6, "beam_width": 2, "branch_factor": 2, "beam_rounds": 2}
    none_kept = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)  # the client outlives the run's event loop
    http = openai.DefaultAsyncHttpxClient(limits=none_kept)
    client = openai.AsyncOpenAI(base_url=critic.base_url(), api_key="key", http_client=http)
    apo = agl.APO(client, model="critic", strategy="beam", **sizes)
    resources = {"main_llm": agents_model.llm(), "prompt_template": agl.PromptTemplate(template=SEED_PROMPT)}
    made = agl.Trainer(algorithm=apo, initial_resources=resources, store=tmp_path / "s.sqlite", quiet=True)
    result = made.fit(repeat, TRAIN, VAL)
    assert result_of(result)["spent"]["rollouts"] == 12 + sum(4 * 2 + (beam + 4) * 6 + 12 for beam in (1, 2))
    assert "not tested for chance" in result.summary()
    assert MARK in apo.get_best_prompt().template or CAPITALS in apo.get_best_prompt().template


def test_without_a_validation_dataset_half_of_the_tasks_are_kept_for_it(trainer, tmp_path):
    trainer().fit(repeat, TRAIN)
    begun = ledger(tmp_path / "store.sqlite")[0]["about"]
    assert (len(begun["train"]), len(begun["val"])) == (8, 8)
    assert {*begun["train"], *begun["val"]} == {task["id"] for task in TRAIN}


@agl.rollout
async def two_prompts(task, llm, resources):
    """Two calls, each with a prompt of its own; the second one's word is judged."""
    said = [await ask(llm, resources[name].format(word=task["word"])) for name in ("first", "second")]
    return judged(task["word"], said[-1])


def test_of_several_prompts_each_is_criticised_by_its_own_calls(trainer, critic):
    prompts = {name: agl.PromptTemplate(template=f"This is the {name} step: {{word}}") for name in ("first", "second")}
    made = trainer(resources=prompts)
    result = made.fit(two_prompts, TRAIN, VAL)
    asked = [call.body["messages"][0]["content"] for call in critic.requests if "went badly" in call.body["messages"][0]["content"]]
    of_first = [text for text in asked if "worked on is `first`" in text]
    assert of_first
    assert all("user: This is the first step" in text and "user: This is the second step" not in text for text in of_first)
    assert all("`second`:" in text for text in of_first)  # the others are told as they are
    best = result.resources.prompts()
    assert CAPITALS in best["second"].template
    assert MARK in best["second"].template
    with pytest.raises(ConfigError, match=r"the prompts are \['first', 'second'\]"):
        made.algorithm.get_best_prompt()


def test_prompts_names_those_that_are_optimised(trainer):
    prompts = {name: agl.PromptTemplate(template=f"This is the {name} step: {{word}}") for name in ("first", "second")}
    result = trainer(apo={"prompts": ["second"]}, resources=prompts).fit(two_prompts, TRAIN, VAL)
    assert result.resources["first"] == prompts["first"]
    assert set(result_of(result)["prompts"]) == {"second"}
    with pytest.raises(NotFoundError, match=r"`prompts` names \['third'\]; there are \['first', 'second'\]"):
        trainer(apo={"prompts": ["third"]}, resources=prompts).fit(two_prompts, TRAIN, VAL)


def with_role(task):
    """A function that nobody can ask for its prompt: it is found in its calls."""
    client = openai.OpenAI(api_key="users", base_url="http://127.0.0.1:9/v1")
    messages = [{"role": "system", "content": "Repeat the word."}, {"role": "user", "content": task["word"]}]
    with agl.role("writer"), client:
        return client.chat.completions.create(model="own", messages=messages).choices[0].message.content


def test_a_prompt_that_only_the_calls_tell_is_found_there_and_put_into_them(trainer, agents_model):
    agent = agl.agent(with_role, input=lambda task: task, reward=lambda task, output: judged(task["word"], output))
    result = trainer(resources={}).fit(agent, TRAIN, VAL)
    best = result.resources["writer.system_prompt"].template
    assert best.startswith("Repeat the word.")
    assert CAPITALS in best
    assert MARK in best
    assert best in {call.body["messages"][0]["content"] for call in agents_model.requests}


def test_an_agent_without_a_prompt_says_what_to_give(trainer):
    @agl.rollout
    def silent(task, llm):
        return 1.0

    with pytest.raises(ConfigError, match=r"no prompt of this agent is known.*initial_resources"):
        trainer(resources={}).fit(silent, TRAIN, VAL)


def test_prompts_that_no_call_has_a_place_for_are_refused_before_the_budget_is_spent(trainer, agents_model):
    agent = agl.agent(with_role, input=lambda task: task, reward=lambda task, output: judged(task["word"], output))
    nowhere = {"reader.system_prompt": agl.PromptTemplate(template="Read.")}
    with pytest.raises(ConfigError, match=r"found no place in any call.*\['writer.system_prompt'\]"):
        trainer(resources=nowhere).fit(agent, TRAIN, VAL)
    assert len(agents_model.requests) <= 24


@pytest.mark.parametrize("reward", [None, float("nan")], ids=["None", "NaN"])
def test_some_rollouts_without_a_reward_say_nothing_and_it_goes_on(trainer, reward):
    number = iter(range(10_000))

    @agl.rollout
    async def forgetful(task, llm, prompt_template):
        given = await repeat.function(task, llm, prompt_template)
        return reward if next(number) % 3 == 0 else given

    result = trainer(n_runners=1).fit(forgetful, TRAIN, VAL)
    told = result_of(result)
    assert told["spent"]["missing"] >= told["spent"]["rollouts"] // 3 - 1
    assert told["decision"] == "improved"


def test_timeouts_are_failures_of_the_agent_and_count_as_such(trainer):
    import asyncio

    @agl.rollout
    async def slow(task, llm, prompt_template):
        if MARK not in prompt_template.template:
            await asyncio.sleep(30)
        return await repeat.function(task, llm, prompt_template)

    made = trainer(apo={"max_rollouts": 40, "screen_tasks": 3}, timeout=0.3, n_runners=16)
    result = made.fit(slow, TRAIN, VAL)
    seed = next(one for one in result_of(result)["candidates"] if one["id"] == "seed")
    assert seed["evidence"]["train"]["mean"] == 0.0
    assert seed["evidence"]["train"]["missing"] == 0


def test_when_no_rollout_brings_a_reward_it_stops_early_and_says_why(trainer, agents_model):
    agents_model.answer = lambda body: Reply("down", status=503)
    with pytest.raises(AglError, match=r"the last 8 rollouts brought no reward \(infrastructure\).*`resume`"):
        trainer(max_attempts=1).fit(repeat, TRAIN, VAL)


def test_a_critic_that_is_down_stops_it_with_its_name_and_the_ledger_keeps_what_was_spent(trainer, critic, tmp_path, agents_model):
    critic.answer = lambda body: Reply("overloaded", status=503)
    with pytest.raises(AglError, match=r"critic at http://\S+ failed 2 times; last: HTTP 503.*What was spent is kept: go on with `resume`"):
        trainer(apo={"retries": 1}).fit(repeat, TRAIN, VAL)
    draws = [event for event in ledger(tmp_path / "store.sqlite") if event["event"] == "draw"]
    assert len(draws) == len(agents_model.requests) == 8
    from apo_agent import REMEDIES

    from agl_apo.testing import scripted

    critic.answer = scripted(REMEDIES)
    result = trainer(apo={"retries": 1}).fit(repeat, TRAIN, VAL, resume=True)
    assert result_of(result)["spent"]["rollouts"] == len(agents_model.requests) <= 90
    assert result_of(result)["decision"] == "improved"


def test_a_critic_that_talks_nonsense_ends_the_search_with_the_seed(trainer, critic):
    critic.answer = lambda body: "I am a teapot."
    result = trainer(apo={"patience": 4}).fit(repeat, TRAIN, VAL)
    told = result_of(result)
    assert told["decision"] == "no_significant_improvement"
    assert "brought no usable text" in told["reason"]
    assert result.resources["prompt_template"].template == SEED_PROMPT


def test_an_editor_that_breaks_placeholders_costs_no_rollout(trainer, critic, agents_model):
    def answer(body):
        text = body["messages"][0]["content"]
        return "<prompt>Say {it}!</prompt>" if "<prompt>" in text else "<idea><label>x</label><change>y</change></idea>"

    critic.answer = answer
    result = trainer(apo={"patience": 4}).fit(repeat, TRAIN, VAL)
    told = result_of(result)
    assert len(told["candidates"]) == 1
    assert {"prompt_template"} == {one["component"] for one in told["rejected"]}
    assert "placeholder" in told["rejected"][0]["reason"]
    assert any("It cannot be used" in call.body["messages"][0]["content"] for call in critic.requests)


def test_a_budget_of_cost_ends_the_search_with_what_there_is(trainer):
    cost = result_of(trainer(apo={"agent_price": (1e6, 1e6), "max_cost": 900.0, "max_rollouts": 400}).fit(repeat, TRAIN, VAL))
    assert "`max_cost` of 900 is nearly spent" in cost["reason"] or "`max_cost`" in cost["reason"]
    assert cost["spent"]["rollouts"] < 300
    assert cost["spent"]["cost"] < 1500


def test_a_step_tells_the_reward_of_the_search_and_nothing_of_the_final(fitted):
    result, _, _, _ = fitted
    steps = [json.loads(line) for line in (result.directory / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert sum(step["rollouts"] for step in steps) == steps[-1]["spent_rollouts"] == result_of(result)["spent"]["rollouts"]
    assert steps[0]["reward"] == 0.0
    assert [step for step in steps if step.get("reward") == 1.0]
    assert "reward" not in steps[-1]
    assert steps[-1]["improved"] == 1


def test_an_agent_with_an_endpoint_of_its_own_needs_no_model(critic, agents_model, tmp_path):
    @agl.rollout
    def words(task):
        messages = [{"role": "system", "content": "Repeat the word."}, {"role": "user", "content": task["word"]}]
        with agl.role("writer"):
            said = client.chat.completions.create(model="theirs", messages=messages).choices[0].message.content
        return judged(task["word"], said)

    apo = agl.APO(endpoint=critic.base_url(), model="critic", max_rollouts=80, probe_tasks=4, screen_tasks=4)
    with openai.OpenAI(base_url=agents_model.base_url(), api_key="own") as client:
        result = agl.Trainer(algorithm=apo, store=tmp_path / "s.sqlite", quiet=True).fit(words, TRAIN, VAL)
    assert result_of(result)["decision"] == "improved"
    assert CAPITALS in result.resources["writer.system_prompt"].template
    assert "-Repeat the word." in result.diff().splitlines()
    assert {(call.body["model"], call.headers["authorization"]) for call in agents_model.requests} == {("theirs", "Bearer own")}
    asked = [call.body["messages"][0]["content"] for call in critic.requests if "went badly" in call.body["messages"][0]["content"]]
    assert all("assistant: apple" in text for text in asked)
