"""Names and options of Agent Lightning 0.3: each means what it says here, or says what to use instead."""

import logging
import re
import warnings
from pathlib import Path

import pytest

import agl
from agl import compat, registry
from agl.errors import AglError, ConfigError, NotFoundError
from agl.testing.scripted import ScriptedServer

PAGE = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text()
NAMES = """
    APO Adapter AgentLightningClient AgentLightningServer AgentOpsTracer Algorithm Attempt AttemptStatus AttemptedRollout
    AttributeValue Attributes Baseline ClientServerExecutionStrategy CollectionBasedLightningStore Dataset DevTaskLoader
    DummyTracer EnqueueRolloutRequest Event ExecutionEvent ExecutionStrategy FastAlgorithm FilterField FilterOptions
    GenericResponse Hook InMemoryLightningStore LLM LLMProxy LegacyAgentRunner LightningEnvVar LightningStore
    LightningStoreCapabilities LightningStoreClient LightningStoreServer LightningStoreStatistics LightningStoreThreaded Link
    LitAgent LitAgentRunner LlmProxyTraceToTriplet MultiprocessingEvent NamedResources OtelResource OtelTraceAdapter OtelTracer
    PaginatedResult ParallelWorkerBase PromptTemplate ProxyLLM Resource ResourceUnion ResourcesUpdate Rollout RolloutConfig
    RolloutLegacy RolloutMode RolloutRawResult RolloutRawResultLegacy RolloutStatus Runner SharedMemoryExecutionStrategy
    SortOptions Span SpanAttributeNames SpanContext SpanCoreFields SpanLike SpanNames SpanRecordingContext StatusCode Task
    TaskIfAny TaskInput ThreadingEvent TraceAdapter TraceState TraceStatus TraceToMessages TraceToTripletBase Tracer
    TracerTraceToTriplet Trainer Triplet VERL Worker WorkerStatus algo build_component clear_active_tracer configure_logger
    emit_annotation emit_exception emit_message emit_object emit_reward find_final_reward find_reward_spans get_active_tracer
    get_message_value get_object_value get_reward_value get_rewards_from_span is_reward_span lightning_cli llm_rollout operation
    prompt_rollout resolve_bool_env_var resolve_int_env_var resolve_str_env_var reward rollout set_active_tracer setup_logging
    setup_module_logging
""".split()  # noqa: SIM905 (a list of 120 names would be a page)
"""What `from agentlightning import *` gives in 0.3.0."""
TASKS = [{"id": "a", "q": "one"}, {"id": "b", "q": "two"}]
PROMPT = {"prompt": agl.PromptTemplate(template="{q}!", engine="f-string")}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@agl.rollout
def shout(task, prompt_template):
    return float(len(prompt_template.format(**task)))


def trainer(**given):
    return agl.Trainer(**{"initial_resources": PROMPT, "quiet": True, **given})


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_or_says_what_to_use(name):
    known = name in agl.__all__, name in compat.HOME, name in compat.GONE, name in compat.COMING, name in compat.BROUGHT
    assert sum(known) == 1
    if name in agl.__all__ or name in compat.HOME or name in compat.BROUGHT:
        assert getattr(agl, name) is not None
    else:
        with pytest.raises(AttributeError, match=f"`agl` has no attribute `{name}`: .{{20}}"):
            getattr(agl, name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_on_the_page(name):
    assert f"`{name}`" in PAGE


def test_no_other_name_is_promised():
    later = {"MongoLightningStore", "WeaveTracer"}  # of modules of their own
    assert {*compat.HOME, *compat.GONE, *compat.COMING, *compat.BROUGHT} - later <= set(NAMES)


def test_a_missing_algorithm_says_which_package_brings_it(monkeypatch):
    monkeypatch.setitem(registry._KNOWN_PACKAGES, ("agl.algorithms", "ghost"), "agl-ghost")
    with pytest.raises(AttributeError, match=r"`pip install agl-ghost` brings it"):
        agl.GHOST({})


def test_a_class_may_name_the_type_of_its_tasks_and_warns_of_trained_agents():
    class Writer(agl.LitAgent[dict[str, str]]):
        def __init__(self):
            super().__init__(trained_agents="write")

    with pytest.warns(DeprecationWarning, match=r'say `Trainer\(adapter=\{"agent_match": \'write\'\}\)`') as told:
        agent = Writer()
    assert told[0].filename == __file__
    assert agent.tracer.get_langchain_handler


def test_methods_that_nobody_would_call_are_refused():
    class Hooked(agl.LitAgent):
        def on_rollout_start(self, task, runner, tracer): ...

    class First(agl.LitAgent):
        def training_rollout(self, task, rollout_id, resources): ...

    with pytest.raises(ConfigError, match=r"`Hooked.on_rollout_start` would never be called; .*`agl.Hook`"):
        trainer().dev(Hooked(), TASKS)
    with pytest.raises(ConfigError, match=r"has the form of Agent Lightning 0.1"):
        trainer().dev(First(), TASKS)


def test_an_agents_resources_are_read_like_a_dict():
    @agl.rollout
    def look(task, resources):
        assert dict(resources) == dict(resources.items()) == PROMPT
        assert "prompt" in resources
        return float(len(resources))

    assert trainer().dev(look, TASKS[:1])[0].reward == 1.0


@pytest.mark.parametrize("engine", ["jinja", "poml"])
def test_a_template_of_another_engine_is_refused(engine):
    with pytest.raises(ConfigError, match=f"can be \"f-string\", given was '{engine}'"):
        agl.PromptTemplate(template="{{x}}", engine=engine)


def test_decorators_by_their_older_names():
    @agl.llm_rollout
    def one(task, llm): ...

    @agl.llm_rollout(strip_proxy=True)
    def two(task, llm): ...

    @agl.prompt_rollout
    def three(task, prompt_template):
        return float(len(prompt_template.template))

    assert [agent.function.__name__ for agent in (one, two, three)] == ["one", "two", "three"]
    assert trainer().dev(three, TASKS[:1])[0].reward == 4.0
    with pytest.raises(ConfigError, match="already has its attempt's URL"):
        agl.llm_rollout(strip_proxy=False)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_decorated_judge_gives_the_reward(is_async):
    def plain(task):
        return 0.75

    async def plain_async(task):
        return 0.75

    with pytest.warns(DeprecationWarning, match="`@reward` is old") as told:
        judge = agl.reward(plain)
    with pytest.warns(DeprecationWarning, match="`@reward` is old"):
        judge_async = agl.reward(plain_async)
    assert told[0].filename == __file__

    @agl.rollout
    def agent(task):
        assert judge(task) == 0.75

    @agl.rollout
    async def agent_async(task):
        assert await judge_async(task) == 0.75

    assert trainer().dev(agent_async if is_async else agent, TASKS[:1])[0].reward == 0.75


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("llm_proxy", object(), "the gateway records every call by itself"),
        ("runner", object(), "what runs the attempts is `executor=`"),
        ("port", 4747, "the gateway's port is `gateway_port`"),
        ("max_rollouts", 3, "the dataset and the algorithm's steps"),
        ("dev", True, r"call `trainer.dev\(agent, tasks\)`"),
        ("daemon", True, "there are no runner processes"),
        ("strategy", "cs", "AGL has no runner processes"),
        ("strategy", {"type": "agentlightning.ClientServerExecutionStrategy"}, "AGL has no runner processes"),
        ("strategy", 3, "`strategy` can be 'shm' or left out, given was 3"),
        ("hooks", [print], "derived from `agl.Hook`, given was <built-in"),
        ("adapter", "writer", "must be a mapping such as"),
        ("adapter", {"reward_match": 1}, r"has the options \['agent_match', 'credit', .*\], given was \['reward_match'\]"),
    ],
)
def test_an_option_that_cannot_be_says_what_to_use(option, value, said):
    with pytest.raises(ConfigError, match=said):
        trainer(**{option: value})


def test_an_option_that_nobody_has_is_a_type_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'runers'"):
        trainer(runers=3)


def test_a_tracer_is_taken_with_a_warning():
    with pytest.warns(DeprecationWarning, match="`tracer=` has no effect") as told:
        trainer(tracer=agl.OtelTracer())
    assert told[0].filename == __file__
    with pytest.raises(AttributeError, match=r"`AgentOpsTracer` has no `get_last_trace`: .*`result.spans`"):
        agl.AgentOpsTracer().get_last_trace()
    with pytest.raises(ConfigError, match="takes no options"):
        agl.AgentOpsTracer(agentops_managed=True)


@pytest.mark.parametrize("strategy", ["shm", {"type": "shm", "n_runners": 3}, agl.SharedMemoryExecutionStrategy(n_runners=3)])
def test_a_strategy_says_how_many_runners(strategy):
    with pytest.warns(DeprecationWarning, match='`strategy=` is old: .*executor="thread"'):
        assert trainer(strategy=strategy).n_runners == (8 if strategy == "shm" else 3)


def test_two_numbers_of_runners_are_refused():
    with pytest.warns(DeprecationWarning, match="is old"), pytest.raises(ConfigError, match="asks for 3 runners and `n_runners` for 4"):
        trainer(strategy=agl.SharedMemoryExecutionStrategy(n_runners=3), n_runners=4)
    with pytest.warns(DeprecationWarning, match=r"\['main_thread'\] of `SharedMemoryExecutionStrategy` have no effect"):
        agl.SharedMemoryExecutionStrategy(main_thread="algorithm")
    with pytest.raises(ConfigError, match=r"given was \['n_runner'\]"):
        agl.SharedMemoryExecutionStrategy(n_runner=3)


@pytest.mark.parametrize(
    ("adapter", "match"),
    [
        (None, None),
        ({"agent_match": "write"}, "write"),
        ({"agent_match": None}, None),
        (agl.TracerTraceToTriplet(agent_match="write"), "write"),
        (agl.LlmProxyTraceToTriplet(), None),
        (agl.TraceToMessages(), None),
    ],
)
def test_an_adapter_says_which_roles_are_learned_from(adapter, match):
    assert trainer(adapter=adapter).adapter.agent_match == match


class Notes(agl.Hook):
    def __init__(self):
        self.started, self.ended = [], []

    async def on_rollout_start(self, *, agent, runner, rollout):
        self.started.append(rollout.input["q"])
        with pytest.raises(AttributeError, match=r"a hook of AGL is not told the agent"):
            agent.name  # noqa: B018

    async def on_rollout_end(self, *, agent, runner, rollout, spans):
        self.ended.append((rollout.rollout_id, agl.find_final_reward(spans), agl.find_reward_spans(spans)))


@pytest.mark.parametrize("several", [True, False])
def test_hooks_hear_of_every_rollout(several):
    notes = Notes()
    results = trainer(hooks=[notes] if several else notes).dev(shout, TASKS)
    assert sorted(notes.started) == ["one", "two"]
    assert {rollout_id: reward for rollout_id, reward, _ in notes.ended} == {result.rollout.rollout_id: 4.0 for result in results}
    assert all(agl.is_reward_span(span) and agl.get_reward_value(span) == 4.0 for _, _, spans in notes.ended for span in spans)


def test_hooks_into_traces_are_refused():
    class Traced(agl.Hook):
        async def on_trace_end(self, *, agent, runner, tracer, rollout): ...

    with pytest.raises(ConfigError, match=r"`Traced.on_trace_end` would never be called: .*agl_trace_rollout"):
        trainer(hooks=[Traced()])


def test_the_baseline_runs_every_task_in_its_mode():
    seen = []

    @agl.rollout
    def note(task, rollout):
        seen.append((rollout.mode, task["q"]))
        return 0.5

    result = trainer(algorithm=agl.Baseline(n_epochs=2)).fit(note, TASKS, val_dataset=[{"q": "three"}])
    assert sorted(seen) == [("train", "one")] * 2 + [("train", "two")] * 2 + [("val", "three")]
    assert result.resources.version == 2
    with pytest.raises(ConfigError, match=r"`Baseline` takes `n_epochs` only, given was \['polling_interval'\]"):
        agl.Baseline(polling_interval=1.0)
    with pytest.raises(ConfigError, match="at least 1, given was 0"):
        agl.Baseline(0)


async def test_a_task_is_run_by_hand_and_its_spans_are_in_the_store():
    with pytest.warns(DeprecationWarning, match="the tracer of `LitAgentRunner` has no effect"):
        runner = agl.LitAgentRunner[dict](agl.OtelTracer())
    store, notes = agl.InMemoryLightningStore(), Notes()
    with runner.run_context(agent=shout, store=store, hooks=[notes]):
        rollout = await runner.step(TASKS[0], resources=PROMPT)
    spans = await store.query_spans(rollout.rollout_id)
    assert [span.kind for span in spans] == ["agent", "reward"]
    assert (rollout.attempt.status, agl.find_final_reward(spans)) == ("succeeded", 4.0)
    assert notes.started == ["one"]
    with pytest.raises(NotFoundError):
        await store.query_spans("ro-none")
    with pytest.raises(AttributeError, match=r"`InMemoryLightningStore` has no `enqueue_rollout`: .*`Run`"):
        await store.enqueue_rollout(input=1)
    with pytest.raises(ConfigError, match="it is thread-safe"):
        agl.InMemoryLightningStore(thread_safe=True)


async def test_a_runner_says_what_it_cannot():
    runner = agl.LitAgentRunner()
    with pytest.raises(ConfigError, match=r"works inside `with runner.run_context"):
        await runner.step(TASKS[0])
    with pytest.raises(ConfigError, match="no runners apart from a Trainer"):
        await runner.iter()
    with pytest.raises(ConfigError, match=r"given was \['poll_interval'\]"):
        agl.LitAgentRunner(poll_interval=1.0)

    def broken(task):
        raise ValueError("no such room")

    with runner.run_context(agent=agl.agent(broken, reward=lambda task, output: 1.0), store=agl.InMemoryLightningStore()):
        with pytest.raises(ConfigError, match="needs an algorithm"):
            await runner.step({"input": 1}, mode="train")
        with pytest.raises(AglError, match="no such room"):
            await runner.step({"input": 1}, resources=PROMPT)


def test_a_result_has_its_final_reward_and_conversations():
    import openai

    @agl.rollout
    def ask(task, llm):
        client = openai.OpenAI(base_url=llm.endpoint, api_key=llm.api_key)
        agl.emit_reward(0.25, "format")
        client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": task["q"]}])
        agl.emit_reward(1.0)

    with ScriptedServer("hello") as server:
        (result,) = trainer(initial_resources={"main_llm": server.llm()}).dev(ask, TASKS[:1])
    [conversation] = agl.TraceToMessages().adapt(result)
    assert [(message["role"], message["content"]) for message in conversation["messages"]] == [("user", "one"), ("assistant", "hello")]
    assert conversation["tools"] is None
    assert agl.TraceToMessages().adapt(result.spans) == [conversation]
    assert agl.find_final_reward(result) == 1.0
    assert agl.find_final_reward(result.spans) is None
    assert agl.get_reward_value(result.spans[0]) is None


class Indexed:
    """A dataset as torch has them: no `__iter__`, and no end but its length."""

    def __len__(self):
        return len(TASKS)

    def __getitem__(self, index):
        return TASKS[index % 2]


def test_a_dataset_may_be_anything_with_length_and_indices():
    assert [result.task.data["q"] for result in trainer().dev(shout, Indexed())] == ["one", "two"]


def test_a_dry_run_takes_both_datasets_by_their_names():
    results = trainer().dev(shout, train_dataset=TASKS, val_dataset=[{"q": "three"}])
    assert [result.task.data["q"] for result in results] == ["one", "two", "three"]
    assert {result.rollout.mode for result in results} == {"val"}
    for given in ({}, {"dev_dataset": TASKS, "train_dataset": TASKS}):
        with pytest.raises(ConfigError, match="`dev` needs one dataset"):
            trainer().dev(shout, **given)


@pytest.mark.parametrize("given", [shout, None, {}])
def test_an_operation_without_a_name_is_refused(given):
    with pytest.raises(ConfigError, match="goes around a block and has a name"):
        agl.operation(given)


def test_tasks_that_are_texts_say_how_they_become_dicts():
    with pytest.raises(ConfigError, match=re.escape('`[{"input": text} for text in texts]`')):
        trainer().dev(shout, ["one"])


def test_logging_is_set_up_once_however_often_it_is_asked_for(capsys, tmp_path):
    names = ("agl", "users.script")
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in names}
    try:
        agl.setup_logging("DEBUG", apply_to=["users.script"])
        agl.setup_logging(apply_to=["users.script"], files=tmp_path / "logs" / "run.log")
        logging.getLogger("users.script").info("said once")
        logging.getLogger("users.script").debug("not said")
        with pytest.warns(DeprecationWarning, match="`configure_logger` is old"):
            assert agl.configure_logger(logging.ERROR) is logging.getLogger("agl")
        with pytest.raises(ConfigError, match=r"`level` must be one of .* given was 'LOUD'"):
            agl.setup_logging("LOUD")
    finally:
        for name, (level, propagate) in before.items():
            logger = logging.getLogger(name)
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
                handler.close()
            logger.setLevel(level)
            logger.propagate = propagate
    said = capsys.readouterr().err
    assert said.count("said once") == 1
    assert "not said" not in said
    assert (tmp_path / "logs" / "run.log").read_text().count("said once") == 1


def test_no_name_warns_by_itself():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        agl.TracerTraceToTriplet(agent_match="x")
        agl.InMemoryLightningStore()
        agl.LitAgentRunner()
    assert said == []
