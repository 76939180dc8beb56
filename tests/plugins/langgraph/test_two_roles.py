"""One role learns, the other stays what it was: its requests reach its own endpoint byte for byte as without AGL."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypedDict

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph

import agl
from agl.errors import ConfigError
from agl.spans import SpanKind
from agl.testing.scripted import ScriptedServer

ANSWER = {
    "id": "own-1",
    "object": "chat.completion",
    "created": 1,
    "model": "users-critic",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class OwnEndpoint:
    """The user's endpoint: keeps each request as the bytes that came."""

    def __init__(self):
        self.requests, self.status = [], 200
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append((self.raw_requestline, self.headers.as_string(), body))
                answer = json.dumps(ANSWER).encode()
                self.send_response(endpoint.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args): ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def own():
    endpoint = OwnEndpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, daemon=True)
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()
    thread.join()


@pytest.fixture
def policy():
    with ScriptedServer("a draft") as server:
        yield server


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class State(TypedDict, total=False):
    question: str
    draft: str
    verdict: str


def chat(url, **options):
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    clients = {"http_client": openai.DefaultHttpxClient(limits=limits), "http_async_client": openai.DefaultAsyncHttpxClient(limits=limits)}
    return ChatOpenAI(base_url=url, api_key="users-key", max_retries=0, **options, **clients)


def review(own):
    """A writer and a critic, each with a model of the user's; the critic's has parameters and headers of its own."""
    writer = chat("http://127.0.0.1:9/v1", model="users-writer")
    critic = chat(own.url, model="users-critic", temperature=0.25, seed=7, default_headers={"x-team": "review"})

    async def write(state):
        return {"draft": (await writer.ainvoke([("system", "You write."), ("user", state["question"])])).content}

    async def judge(state):
        return {"verdict": (await critic.ainvoke([("system", "You judge."), ("user", state["draft"])])).content}

    graph = StateGraph(State).add_node("writer", write).add_node("critic", judge)
    return graph.add_edge(START, "writer").add_edge("writer", "critic").compile(name="review")


def spec(graph):
    return agl.agent(
        graph, input=lambda task: {"question": task["q"]}, output=lambda state: state["verdict"], reward=lambda task, text: 1.0
    )


def trainer(policy, **options):
    main = {"main_llm": agl.LLM(endpoint=policy.base_url(), model="policy", version="1")}
    return agl.Trainer(**{"quiet": True, "initial_resources": main, **options})


class Improves(agl.Algorithm):
    """Serves new weights and a new prompt for the writer in each step."""

    name = "improves"

    def __init__(self, policy):
        self.policy, self.groups = policy, []

    def resources(self, version):
        llm = agl.LLM(endpoint=self.policy.base_url(), model="policy", version=str(version))
        return {"main_llm": llm, "writer.system_prompt": agl.PromptTemplate(template=f"You write, version {version}.")}

    async def start(self, run):
        return self.resources(1)

    async def fit(self, run):
        for step in run.steps(2):
            self.groups += await run.rollout(run.train.sample(1), n=2)
            await run.publish(metrics={"reward": 1.0}, **self.resources(step + 2))


def test_the_trained_role_changes_and_the_other_is_left_alone_byte_for_byte(own, policy):
    graph = review(own)
    critic = graph.nodes["critic"].bound
    asyncio.run(critic.ainvoke({"draft": "a draft"}))
    (alone,) = own.requests
    own.requests.clear()
    algorithm = Improves(policy)
    trainer(policy, algorithm=algorithm, initial_resources={}, roles={"writer": "train", "critic": "original"}).fit(
        spec(graph), [{"q": "why?"}]
    )
    assert own.requests == [alone] * 4
    assert b"users-key" in alone[1].encode()
    said = [call.body["messages"][0]["content"] for call in policy.requests]
    assert said == ["You write, version 1."] * 2 + ["You write, version 2."] * 2
    for group in algorithm.groups:
        for result in group.results:
            assert [(item.role, item.trainable) for item in result.transitions] == [("writer", True)]
            (own_call,) = [span for span in result.spans if span.attributes.get("agl.endpoint")]
            assert (own_call.role, own_call.attributes["gen_ai.request.model"]) == ("critic", "users-critic")


def test_what_a_prompt_replaced_is_in_the_gateways_span(own, policy):
    prompt = {"writer.system_prompt": agl.PromptTemplate(template="You write well.")}
    main = {"main_llm": agl.LLM(endpoint=policy.base_url(), model="policy")}
    (result,) = trainer(policy, initial_resources=main | prompt, roles={"critic": "original"}).dev(spec(review(own)), [{"q": "why?"}])
    (call,) = [span for span in result.spans if span.kind == SpanKind.LLM]
    assert call.attributes["agl.call"]["overridden"] == {"writer.system_prompt": "You write.", "model": "users-writer"}
    assert "agl_overridden" not in policy.requests[0].body
    assert {name: prompt.template for name, prompt in agl.prompts([result]).items()} == {"writer.system_prompt": "You write."}


def test_a_role_goes_to_the_model_that_it_names_with_that_ones_parameters(own, policy):
    with ScriptedServer("fine") as judge:
        resources = {
            "main_llm": agl.LLM(endpoint=policy.base_url(), model="policy", version="1"),
            # The same server and model name as another resource: told apart by the resource's own name.
            "cold": agl.LLM(endpoint=judge.base_url(), model="judge", sampling_parameters={"temperature": 0.9}),
            "judge": agl.LLM(endpoint=judge.base_url(), model="judge", sampling_parameters={"temperature": 0.125}, version="9"),
        }
        (result,) = trainer(policy, initial_resources=resources, roles={"critic": "judge"}).dev(spec(review(own)), [{"q": "why?"}])
    assert [call.body["messages"][-1]["content"] for call in policy.requests] == ["why?"]
    (asked,) = judge.requests
    assert (asked.body["model"], asked.body["temperature"], asked.body["messages"][0]["content"]) == ("judge", 0.125, "You judge.")
    assert not own.requests
    assert [(item.role, item.untrained) for item in result.transitions][1] == ("critic", "role `critic` goes to the LLM `judge`")


def test_beside_an_algorithms_own_model_a_given_one_serves_only_the_roles_that_name_it(own, policy):
    with ScriptedServer("fine") as judge:
        given = {"judge": agl.LLM(endpoint=judge.base_url(), model="judge")}
        algorithm = Improves(policy)
        trainer(policy, algorithm=algorithm, initial_resources=given, roles={"critic": "judge"}).fit(spec(review(own)), [{"q": "why?"}])
    assert [call.body["messages"][-1]["content"] for call in policy.requests] == ["why?"] * 4
    assert [call.body["messages"][-1]["content"] for call in judge.requests] == ["a draft"] * 4


def test_a_failure_of_the_roles_own_endpoint_is_not_the_agents(own, policy):
    own.status = 503
    (result,) = trainer(policy, roles={"critic": "original"}, max_attempts=1).dev(spec(review(own)), [{"q": "why?"}])
    assert (str(result.failure), result.reward) == ("infrastructure", None)


def test_a_refusal_of_what_the_agent_says_is_the_agents_failure(own, policy):
    own.status = 400
    (result,) = trainer(policy, roles={"critic": "original"}, max_attempts=1).dev(spec(review(own)), [{"q": "why?"}])
    assert str(result.failure) == "agent"


def test_langchains_cache_answers_for_a_role_that_is_left_alone(own, policy):
    set_llm_cache(InMemoryCache())
    try:
        trainer(policy, roles={"critic": "original"}, n_runners=1).evaluate(spec(review(own)), [{"q": "why?"}] * 2)
    finally:
        set_llm_cache(None)
    assert (len(policy.requests), len(own.requests)) == (2, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"roles": {"critic": "jugde"}}, r"`roles\['critic'\]` must be .*there are \['main_llm'\].*given was 'jugde'"),
        (
            {"prompts": ["critic.system_prompt"], "roles": {"critic": "original"}},
            "has no effect: calls of the role `critic` are left alone",
        ),
        ({"prompts": ["writer.system_prompt", "writer.instructions"]}, "name the same prompt; give one of them"),
    ],
)
def test_names_that_cannot_work_are_refused_before_anything_starts(own, policy, options, says):
    prompts = {name: agl.PromptTemplate(template="x") for name in options.get("prompts", ())}
    main = {"main_llm": agl.LLM(endpoint=policy.base_url(), model="policy"), **prompts}
    with pytest.raises(ConfigError, match=says):
        agl.Trainer(quiet=True, initial_resources=main, roles=options.get("roles")).dev(spec(review(own)), [{"q": "why?"}])
    assert not policy.requests


def test_a_prompt_that_finds_no_place_is_said_once_with_those_that_there_are(own, policy, capsys):
    prompt = {"wirter.system_prompt": agl.PromptTemplate(template="You write well.")}
    main = {"main_llm": agl.LLM(endpoint=policy.base_url(), model="policy"), **prompt}
    agl.Trainer(initial_resources=main).evaluate(spec(review(own)), [{"q": "why?"}] * 3)
    said = capsys.readouterr().out
    assert said.count("['wirter.system_prompt'] found no place in any call") == 1
    assert "'critic.system_prompt', 'writer.system_prompt'" in said
