"""vLLM engine: the driver `vllm` of `agl.engines`, which pushes the learner's weights into a vLLM server after each step.

Adapters go through vLLM's `/v1/load_lora_adapter`, each version from a folder of its own, since its prefix cache tells adapters apart by
name and folder. Whole weights go through `reload_weights` of its development mode, which also holds calls up meanwhile. A server
without that mode takes adapters alone, and the gateway holds the calls up.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import torch

from agl.engines import Engine, Policy
from agl.errors import ConfigError, EngineError
from agl.resources import LLM
from agl_grpo.models import quiet
from agl_grpo.vllm_server import VLLMServer

BASE = "base"
"""Name of the model without its adapter, on a server that this engine starts."""
WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent with each request: a server takes what `generation_config.json` says for its defaults, and the log-probabilities that are learned
from are those of the whole distribution."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""
PROBE_TEMPERATURE, PROBE_TOKENS = 1.5, 16
FARTHEST = 0.5
"""Greatest mean difference, in nats, between the log-probabilities of server and learner at the start; bfloat16 makes some hundredths."""
PUSH_SECONDS, START_SECONDS = 600.0, 900.0


class VLLMEngine(Engine):
    """vLLM, in a process of its own.

    Args:
        where: the URL of a server, with its `/v1`; or the Python of an environment that has vLLM, from which a server is started; the
            default is this Python.
        arguments: of a server that is started, such as `["--gpu-memory-utilization", "0.5"]`.
        start_timeout: seconds until a server that is started must answer.
        options: see `agl.engines.Engine`; a server that runs has its own.

    Raises:
        ConfigError: options of a server that is started, for one that runs.
    """

    name = "vllm"

    def __init__(
        self, where: str = sys.executable, *, arguments: Sequence[str] = (), start_timeout: float = START_SECONDS, **options: Any
    ) -> None:
        super().__init__(**options)
        self.where, self.arguments, self.start_timeout = where, list(arguments), start_timeout
        self.given = where.startswith(("http://", "https://"))
        of_a_start = {"arguments": bool(arguments), "start_timeout": start_timeout != START_SECONDS}
        without_effect = sorted((options.keys() & {"max_batch", "host", "port"}) | {name for name, given in of_a_start.items() if given})
        if self.given and without_effect:
            raise ConfigError(f"{without_effect} have no effect on the server at {where}, which runs already; leave them out")
        self._stack = contextlib.AsyncExitStack()
        self._version: str | None = None
        self._pushed: Path | None = None
        self._holds = self._raw = False

    async def start(self, policy: Policy) -> str:
        if self.endpoint:
            raise EngineError(f"the engine serves already, at {self.endpoint}; stop it first, or make another")
        self._policy, self._lora = policy, getattr(policy.module, "peft_config", None)
        try:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="agl-vllm-")))
            self._session = await self._stack.enter_async_context(_session())
            self.endpoint = self.where.rstrip("/") if self.given else await self._start_server()
            await self._look()
            async with self.paused():
                await self.update(policy.version)
            await self._compare()
        except BaseException:
            await self.stop()
            raise
        return self.endpoint

    @property
    def version(self) -> str:
        if self._version is None:
            raise EngineError("the engine is not started; call `start(policy)` first")
        return self._version

    @property
    def holds_calls(self) -> bool:
        return self._holds

    @contextlib.asynccontextmanager
    async def paused(self, timeout: float = PUSH_SECONDS) -> AsyncGenerator[None]:
        if not self._holds:  # the gateway does it
            yield
            return
        try:
            async with asyncio.timeout(timeout):
                await self._post("/pause?mode=wait")
        except TimeoutError:
            await self._post("/resume")
            raise EngineError(f"running answers did not end within {timeout:g} s; give a longer timeout, or shorter answers") from None
        try:
            yield
        finally:
            await self._post("/resume")

    async def update(self, version: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="weights-", dir=self._folder))
        await asyncio.to_thread(_save, self._policy.module, folder)
        if self._lora is not None:
            await self._post("/v1/load_lora_adapter", {"lora_name": self.model, "lora_path": str(folder), "load_inplace": True})
        else:
            await self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        if self._pushed is not None:
            await asyncio.to_thread(shutil.rmtree, self._pushed)
        self._pushed, self._version = folder, version

    async def stop(self) -> None:
        self.endpoint, self._version, self._pushed = "", None, None
        await self._stack.aclose()

    def llm(self, **values: Any) -> LLM:
        sampling: dict[str, Any] = {**WHOLE_DISTRIBUTION, **values.pop("sampling_parameters", {})}
        if self._raw and sampling.get("temperature", 1.0) != 1.0:
            raise EngineError(
                f"the server at {self.endpoint} tells log-probabilities as they are at temperature 1, and training samples at "
                f"{sampling['temperature']}; start it with `--logprobs-mode processed_logprobs`, or train with `temperature=1.0`"
            )
        return super().llm(sampling_parameters=sampling, **values)

    # --- the server ---------------------------------------------------------------------------------------------------

    async def _start_server(self) -> str:
        policy = self._policy
        path = policy.path
        if not path:  # a model that came from no folder
            path = str(self._folder / "model")
            base = policy.module.get_base_model() if self._lora is not None else policy.module
            await asyncio.to_thread(base.save_pretrained, path)
            await asyncio.to_thread(policy.tokenizer.save_pretrained, path)
        known = {"model": path, "served-model-name": BASE if self._lora is not None else self.model, "generation-config": "vllm"}
        known |= {"dtype": str(next(policy.module.parameters()).dtype).removeprefix("torch."), "max-num-seqs": str(self.max_batch)}
        known |= {"logprobs-mode": "processed_logprobs", "override-generation-config": f'{{"max_new_tokens": {self.max_tokens}}}'}
        arguments = [f"--{name}={value}" for name, value in known.items()]
        if self._lora is not None:
            arguments += ["--enable-lora", "--max-loras=1", f"--max-lora-rank={_rank(self._lora)}"]
        server = VLLMServer(
            self.where,
            [*arguments, *self.arguments],
            self._folder / "server.log",
            host=self.host,
            port=self.port,
            start_timeout=self.start_timeout,
        )
        self._stack.push_async_callback(server.stop)
        return await server.start()

    async def _look(self) -> None:
        """What the server serves, and what it can do.

        Raises:
            EngineError: it does not answer, or cannot take the policy's weights.
        """
        listed = await self._request("GET", "/v1/models")
        names = [card["id"] for card in listed["data"] if not card.get("parent")]
        self._holds = await self._has("/is_paused")
        if self._lora is None:
            if not self._holds:
                raise EngineError(
                    f"the server at {self.endpoint} takes no whole weights: start it with the environment variable VLLM_SERVER_DEV_MODE=1, "
                    "on a machine that shares its folders with this one, or train adapters (`lora={…}`)"
                )
            self.model = names[0]
            await self._check_head()
        elif self.given:  # others may train on this server, too
            self.model = f"policy-{secrets.token_hex(4)}"

    async def _check_head(self) -> None:
        """vLLM's CPU build computes with a packed copy of the output head, which it does not make again for a head that is tied.

        Raises:
            EngineError: new weights would not reach the head.
        """
        if not self._policy.module.config.tie_word_embeddings:
            return
        try:
            told = str(await self._request("GET", "/server_info?config_format=text"))
        except EngineError:  # it looks for programs that not every machine has
            told = ""
        if "device_config=cpu" in told or not told:
            raise EngineError(
                f"the model `{self._policy.path}` shares its embedding with its output head, and vLLM's CPU build does not take new weights for "
                f"such a head; the server {'runs on a CPU' if told else 'does not tell what it runs on (/server_info)'}. Train adapters "
                "(`lora={…}`), or serve it with the native engine"
            )

    async def _compare(self) -> None:
        """Whether the server samples from the learner's weights, and what its log-probabilities are those of.

        Raises:
            EngineError: they are other weights.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": PROBE_TOKENS, "seed": 0}
        body |= {**WHOLE_DISTRIBUTION, "temperature": PROBE_TEMPERATURE, "logprobs": True, "return_token_ids": True}
        answer = await self._post("/v1/chat/completions", body)
        choice = answer["choices"][0]
        told = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])  # (T,)
        scores = await asyncio.to_thread(_scores, self._policy.module, answer["prompt_token_ids"], choice["token_ids"])  # (T, V)
        ids = torch.tensor(choice["token_ids"])[:, None]  # (T, 1)
        off = {t: (torch.log_softmax(scores / t, -1).gather(1, ids)[:, 0] - told).abs().mean() for t in (PROBE_TEMPERATURE, 1.0)}
        nearest = min(off, key=lambda temperature: float(off[temperature]))
        if float(off[nearest]) > FARTHEST:
            raise EngineError(
                f"the server at {self.endpoint} samples from other weights than the learner's: the log-probabilities of {len(told)} tokens differ by "
                f"{float(off[nearest]):.2f} on average; it must serve the model that is trained, `{self._policy.path}`"
            )
        self._raw = nearest == 1.0

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _has(self, path: str) -> bool:
        async with self._session.get(f"{self._root}{path}") as answer:
            return answer.status == 200

    async def _post(self, path: str, body: Any = None) -> Any:
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: Any = None) -> Any:
        try:
            async with self._session.request(method, f"{self._root}{path}", json=body) as answer:
                if answer.status != 200:
                    raise EngineError(
                        f"vLLM at {self._root} answered {answer.status} to {path}: {(await answer.text())[:500]}{_remedy(path)}"
                    )
                return await answer.json() if answer.content_type == "application/json" else None
        except aiohttp.ClientError as error:
            raise EngineError(f"vLLM at {self._root} cannot be reached ({path}): {type(error).__name__}: {error}") from error

    @property
    def _root(self) -> str:
        return self.endpoint.removesuffix("/v1")


def _session() -> aiohttp.ClientSession:
    # vLLM closes what was idle for five seconds, which a process that learned meanwhile has not seen yet.
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PUSH_SECONDS), connector=aiohttp.TCPConnector(force_close=True))


def _remedy(path: str) -> str:
    if path != "/v1/load_lora_adapter":
        return ""
    return (
        "; a server that takes adapters is started with `--enable-lora`, a `--max-lora-rank` that is large enough, and the environment "
        "variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, on a machine that shares its folders with this one"
    )


def _rank(config: dict[str, Any]) -> int:
    """The least rank that vLLM can be started with for these adapters."""
    needed = max(adapter.r for adapter in config.values())
    found = next((rank for rank in RANKS if rank >= needed), None)
    if found is None:
        raise EngineError(f"vLLM takes adapters up to rank {RANKS[-1]}, given was {needed}")
    return found


@torch.no_grad()
def _scores(module: Any, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
    """(T, V) float32 logits of an answer's tokens after a prompt."""
    ids = torch.tensor([[*prompt_ids, *token_ids]], device=next(module.parameters()).device)  # (1, S)
    return module(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1].float().cpu()


def _save(module: Any, folder: Path) -> None:
    with quiet():
        module.save_pretrained(folder)
