"""The vLLM engine pushes each version as vLLM takes it, and refuses servers that could not be learned from. A real vLLM: tests/vllm."""

import contextlib
import json
import os
import stat
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestServer

import agl
from agl.engines import Policy
from agl.errors import ConfigError, EngineError
from agl_grpo.models import LoRA, with_lora
from agl_grpo.vllm import WHOLE_DISTRIBUTION, VLLMEngine

PROMPT, ANSWER = [1, 7, 8, 2], [30, 31, 32, 2]


class FakeVLLM:
    """Answers as vLLM does, with the log-probabilities of a model that it is given."""

    def __init__(self, model, *, dev=True, lora=True, device="cpu", raw=False):
        self.model, self.raw, self.asked, self.folders, self.device = model, raw, [], [], device
        routes = [web.get("/v1/models", self.models), web.post("/v1/chat/completions", self.chat)]
        if lora:
            routes.append(web.post("/v1/load_lora_adapter", self.load))
        if dev:
            plain = [web.post(path, self.plain) for path in ("/pause", "/resume")]
            routes += [
                *plain,
                web.get("/is_paused", self.plain),
                web.get("/server_info", self.info),
                web.post("/collective_rpc", self.load),
            ]
        self.app = web.Application()
        self.app.add_routes(routes)

    async def models(self, request):
        return web.json_response({"data": [{"id": "adapter", "parent": "base-model"}, {"id": "base-model", "parent": None}]})

    async def info(self, request):
        if self.device is None:
            raise web.HTTPInternalServerError
        return web.json_response({"vllm_config": f"model='x', device_config={self.device}, dtype=torch.float32"})

    async def plain(self, request):
        self.asked.append(f"{request.method} {request.path_qs}")
        return web.json_response({"status": "ok"})

    async def load(self, request):
        body = await request.json()
        folder = Path(body.get("lora_path") or body["kwargs"]["weights_path"])
        self.asked.append(request.path)
        self.folders.append((folder, sorted(file.name for file in folder.iterdir())))
        self.loaded = {name: value for name, value in body.items() if name not in ("lora_path", "kwargs")}
        return web.Response(text="Success")

    async def chat(self, request):
        body = await request.json()
        assert WHOLE_DISTRIBUTION.items() <= body.items()
        with torch.no_grad():
            scores = self.model(torch.tensor([PROMPT + ANSWER])).logits[0, len(PROMPT) - 1 : -1]
        told = torch.log_softmax(scores / (1.0 if self.raw else body["temperature"]), -1)
        content = [{"logprob": float(told[place, token])} for place, token in enumerate(ANSWER)]
        return web.json_response({"prompt_token_ids": PROMPT, "choices": [{"token_ids": ANSWER, "logprobs": {"content": content}}]})


@pytest.fixture
def serving(tokenizer):
    """An engine on a fake server, started with a model."""

    @contextlib.asynccontextmanager
    async def start(model, served=None, **options):
        fake = FakeVLLM(served or model, **options)
        async with TestServer(fake.app) as server:
            engine = VLLMEngine(str(server.make_url("/v1")))
            try:
                await engine.start(Policy(module=model, tokenizer=tokenizer, path="my-model"))
                yield engine, fake
            finally:
                await engine.stop()
                assert engine.endpoint == ""

    return start


async def test_adapters_go_in_place_from_a_folder_of_their_own(model, serving):
    async with serving(with_lora(model, LoRA(rank=4))) as (engine, fake):
        assert (engine.version, engine.holds_calls) == ("0", True)
        assert fake.loaded == {"lora_name": engine.model, "load_inplace": True}
        for version in ("1", "2"):
            async with engine.paused():
                await engine.update(version)
        folders = [folder for folder, _ in fake.folders]
        assert len(set(folders)) == 3
        assert [folder.exists() for folder in folders] == [False, False, True]
        assert all("adapter_model.safetensors" in files for _, files in fake.folders)
        turn = ["POST /pause?mode=wait", "/v1/load_lora_adapter", "POST /resume"]
        assert fake.asked == ["GET /is_paused", *turn * 3]
        llm = engine.llm(sampling_parameters={"temperature": 0.7, "top_p": 0.9})
        assert llm.sampling_parameters == {**WHOLE_DISTRIBUTION, "temperature": 0.7, "top_p": 0.9}
        assert (llm.model, llm.version) == (engine.model, "2")
    assert not folders[-1].exists()


async def test_two_runs_on_one_server_have_adapters_of_their_own(model, serving, make_model):
    async with serving(with_lora(model, LoRA(rank=4))) as (one, _), serving(with_lora(make_model(), LoRA(rank=4))) as (other, _):
        assert one.model != other.model


async def test_whole_weights_are_read_again_by_the_model_that_is_served(model, serving):
    async with serving(model) as (engine, fake):
        assert engine.model == "base-model"
        async with engine.paused():
            await engine.update("1")
        assert fake.loaded == {"method": "reload_weights"}
        assert all("model.safetensors" in files for _, files in fake.folders)
        assert fake.asked[-3:] == ["POST /pause?mode=wait", "/collective_rpc", "POST /resume"]


async def test_a_server_without_its_development_mode_takes_adapters_alone(model, serving):
    with pytest.raises(EngineError, match=r"takes no whole weights: start it with the environment variable VLLM_SERVER_DEV_MODE=1"):
        async with serving(model, dev=False):
            pass
    async with serving(with_lora(model, LoRA(rank=4)), dev=False) as (engine, fake):
        assert not engine.holds_calls
        async with engine.paused():
            await engine.update("1")
        assert fake.asked == ["/v1/load_lora_adapter"] * 2


async def test_a_server_that_takes_no_adapters_says_how_to_start_it(model, serving):
    with pytest.raises(
        EngineError, match=r"answered 404 to /v1/load_lora_adapter: .*`--enable-lora`.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    ):
        async with serving(with_lora(model, LoRA(rank=4)), lora=False):
            pass


async def test_a_shared_head_on_a_cpu_is_refused_with_the_way_out(make_model, serving):
    tied = make_model(tie_word_embeddings=True)
    with pytest.raises(EngineError, match=r"`my-model` shares its embedding with its output head, .* runs on a CPU\. Train adapters"):
        async with serving(tied):
            pass
    with pytest.raises(EngineError, match=r"does not tell what it runs on"):
        async with serving(tied, device=None):
            pass
    async with serving(tied, device="cuda"):
        pass


async def test_a_server_of_another_model_is_found_before_anything_is_learned(model, make_model, serving):
    with pytest.raises(EngineError, match=r"samples from other weights than the learner's: the log-probabilities of 4 tokens differ by"):
        async with serving(model, served=make_model(seed=1)):
            pass


async def test_logprobs_without_the_temperature_are_only_good_for_a_temperature_of_one(model, serving):
    async with serving(model, raw=True) as (engine, _):
        assert engine.llm(sampling_parameters={"temperature": 1.0}).sampling_parameters["temperature"] == 1.0
        with pytest.raises(EngineError, match=r"start it with `--logprobs-mode processed_logprobs`, or train with `temperature=1.0`"):
            engine.llm(sampling_parameters={"temperature": 0.8})


async def test_an_engine_serves_once_at_a_time_and_has_no_version_before(model, tokenizer, serving):
    with pytest.raises(EngineError, match="the engine is not started"):
        _ = VLLMEngine("http://127.0.0.1:1/v1").version
    async with serving(model) as (engine, _):
        with pytest.raises(EngineError, match="serves already"):
            await engine.start(Policy(module=model, tokenizer=tokenizer))


async def test_a_server_that_is_not_there_is_named(model, tokenizer):
    with pytest.raises(EngineError, match=r"vLLM at http://127.0.0.1:1 cannot be reached"):
        await VLLMEngine("http://127.0.0.1:1/v1").start(Policy(module=model, tokenizer=tokenizer))


@pytest.mark.parametrize("options", [{"port": 8000}, {"max_batch": 4}, {"arguments": ["--x"]}, {"start_timeout": 5.0}])
def test_options_of_a_server_that_runs_already_are_refused(options):
    with pytest.raises(ConfigError, match=r"have no effect on the server at http://127.0.0.1:1/v1, which runs already"):
        VLLMEngine("http://127.0.0.1:1/v1", **options)


def test_grpo_takes_the_engine_by_name_with_where_it_is():
    engine = agl.GRPO("model", engine="vllm=http://127.0.0.1:1/v1", max_tokens=9).engine
    assert (type(engine), engine.where, engine.max_tokens) == (VLLMEngine, "http://127.0.0.1:1/v1", 9)
    assert agl.GRPO("model", engine="vllm", port=8001).engine.where == sys.executable
    with pytest.raises(ConfigError, match=r"\['max_batch'\] have no effect on the server"):
        agl.GRPO("model", engine="vllm=http://127.0.0.1:1/v1", max_batch=3)


# A server of its own. A program stands in for the Python that has vLLM.

SERVER = """
    import json, os, sys
    from aiohttp import web
    options = dict(zip(sys.argv[1:-1], sys.argv[2:]))
    async def say(request):
        return web.json_response({"data": [{"id": "base", "parent": None}]})
    app = web.Application()
    app.router.add_get("/v1/models", say)
    json.dump({"arguments": sys.argv[1:], "pid": os.getpid(), "dev": os.environ["VLLM_SERVER_DEV_MODE"]}, open(sys.argv[0] + ".json", "w"))
    web.run_app(app, host=options["--host"], port=int(options["--port"]), print=None)
"""


@pytest.fixture
def python(tmp_path):
    def make(code):
        path = tmp_path / "python"
        (tmp_path / "server.py").write_text(textwrap.dedent(code))
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "server.py"} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def is_alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_a_server_is_started_with_what_the_policy_needs_and_ended(python, tmp_path, model, tokenizer):
    engine = VLLMEngine(python(SERVER), arguments=["--enforce-eager"], max_batch=5, max_tokens=7)
    with pytest.raises(EngineError, match="takes no whole weights"):  # the stand-in has no development mode; it came up, though
        await engine.start(Policy(module=model, tokenizer=tokenizer, path="my-model"))
    found = json.loads((tmp_path / "server.py.json").read_text())
    asked = {"--model=my-model", "--served-model-name=policy", "--dtype=float32", "--max-num-seqs=5", "--logprobs-mode=processed_logprobs"}
    asked |= {"--generation-config=vllm", '--override-generation-config={"max_new_tokens": 7}', "--enforce-eager", "-m"}
    assert asked <= set(found["arguments"])
    assert found["dev"] == "1"
    assert not is_alive(found["pid"])


async def test_adapters_need_a_server_with_room_for_their_rank(python, tmp_path, model, tokenizer):
    with pytest.raises(EngineError, match=r"answered 40[45]"):
        await VLLMEngine(python(SERVER)).start(Policy(module=with_lora(model, LoRA(rank=12)), tokenizer=tokenizer, path="my-model"))
    arguments = json.loads((tmp_path / "server.py.json").read_text())["arguments"]
    assert {"--enable-lora", "--max-lora-rank=16", "--served-model-name=base"} <= set(arguments)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(\"ModuleNotFoundError: No module named 'vllm'\")", r"has no vLLM: vLLM ended before it answered"),
        ("raise SystemExit('out of memory')", r"out of memory\nvLLM ended before it answered; it was started as"),
        ("import time; time.sleep(60)", r"vLLM did not answer within 0.5 s"),
    ],
)
async def test_a_server_that_does_not_come_up_says_why(python, model, tokenizer, code, said):
    engine = VLLMEngine(python(code), start_timeout=0.5 if "sleep" in code else 60.0)
    with pytest.raises(EngineError, match=said):
        await engine.start(Policy(module=model, tokenizer=tokenizer, path="my-model"))


async def test_a_python_that_is_not_there_is_an_error(model, tokenizer):
    with pytest.raises(EngineError, match=r"vLLM cannot be started: .*nowhere"):
        await VLLMEngine("nowhere/python").start(Policy(module=model, tokenizer=tokenizer, path="my-model"))
