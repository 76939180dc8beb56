"""VERL on a CPU, through its own doors: a platform, the FSDP engine registered for it, and `native`, a rollout backend without vLLM.

Every process of VERL loads it by `VERL_USE_EXTERNAL_MODULES=agl_verl_cpu` with `VERL_PLATFORM=cpu`. The replica serves with
`agl_grpo`'s engine; all else is VERL's code for GPUs.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any

import ray
import torch
import verl.utils.distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

GIB = 1 << 30


def device_module() -> types.ModuleType:
    """`torch.cpu` with what VERL asks of an accelerator's module."""
    module = types.ModuleType("agl_cpu_device")
    module.__dict__.update({name: getattr(torch.cpu, name) for name in dir(torch.cpu) if not name.startswith("__")})
    nothing = (
        "max_memory_allocated",
        "max_memory_reserved",
        "memory_allocated",
        "memory_reserved",
        "reset_peak_memory_stats",
        "ipc_collect",
    )
    module.__dict__.update({name: lambda *given, **named: 0 for name in nothing})
    module.__dict__.update(
        mem_get_info=lambda *given: (8 * GIB, 8 * GIB),
        empty_cache=lambda: None,
        set_device=lambda *given: None,
        current_device=lambda: 0,
        synchronize=lambda *given: None,
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        get_rng_state=lambda *given: torch.get_rng_state(),
        set_rng_state=lambda state, *given: torch.set_rng_state(state),
        get_device_name=lambda *given: "CPU",
        is_available=lambda: True,
        device_count=lambda: 1,
    )
    return module


@PlatformRegistry.register(platform="cpu")
class CPU(PlatformBase):
    """One CPU that VERL takes for an accelerator."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return True

    def current_device(self) -> Any:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return contextlib.nullcontext()

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_gpus": num_gpus}

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


_process_group = verl.utils.distributed.initialize_global_process_group_ray


def _gloo_group(timeout_second: float | None = None, backend: str | None = None) -> None:
    """VERL's own, whose backend names the CPU and the accelerator: here they are one device."""
    _process_group(timeout_second, backend or "cpu:gloo")


verl.utils.distributed.initialize_global_process_group_ray = _gloo_group


class Server:
    """One actor of Ray: `agl_grpo`'s engine on VERL's weights, with its OpenAI-compatible endpoint."""

    def __init__(self, path: str) -> None:
        torch.set_num_threads(1)
        self.path = path
        self.engine: Any = None

    async def launch(self) -> str:
        """The address, `host:port`."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from agl.engines import Policy
        from agl_grpo.native import NativeEngine

        self.module = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32).eval()
        self.engine = NativeEngine(threads=1)
        policy = Policy(module=self.module, tokenizer=AutoTokenizer.from_pretrained(self.path), path=self.path, version="none")
        return (await self.engine.start(policy)).removeprefix("http://").removesuffix("/v1")

    async def load(self, weights: dict[str, torch.Tensor], version: int) -> list[str]:
        """Serve VERL's weights; the names of those that did not come."""
        async with self.engine.paused():
            with torch.no_grad():
                missing, _ = self.module.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
            await self.engine.update(str(version))
        return list(missing)

    async def sleep(self) -> None: ...

    async def wake_up(self, tags: Any = None) -> None: ...

    async def abort_all_requests(self, reject_request: bool = False) -> None: ...

    async def resume_generation(self) -> None: ...

    async def clear_kv_cache(self) -> None: ...

    async def release_kv_cache(self) -> None: ...

    async def resume_kv_cache(self) -> None: ...


class Replica(RolloutReplica):
    """VERL's handle of a server."""

    async def launch_servers(self) -> None:
        path = self.model_config.get("local_path", None) or self.model_config.get("path")
        name = _server_name(self.replica_rank)
        self._server_handle = ray.remote(Server).options(name=name, num_cpus=0, max_concurrency=self.max_concurrency).remote(path)
        self.servers = [self._server_handle]
        self._server_address = await self._server_handle.launch.remote()


class Adapter(BaseRollout):
    """The worker's side: hands the trainer's weights to the server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = max(0, replica_rank)

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(self, weights: Any, global_steps: int | None = None, wire_format: str = "named_tensors", **given: Any) -> None:
        if hasattr(weights, "__aiter__"):
            found = {name: value.detach().cpu().clone() async for name, value in weights}
        else:
            found = {name: value.detach().cpu().clone() for name, value in weights}
        missing = await ray.get_actor(_server_name(self.replica_rank)).load.remote(found, global_steps)
        tied = {"lm_head.weight"}
        assert set(missing) <= tied, f"VERL did not send {missing}"


def _server_name(rank: int) -> str:
    return f"agl_native_{rank}"


_ROLLOUT_REGISTRY[("native", "async")] = "agl_verl_cpu.Adapter"
RolloutReplicaRegistry.register("native", lambda: Replica)
