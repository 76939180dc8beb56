"""Checkpoint: everything that a run needs to go on as if it had never stopped, in files that run no code when read.

    model/ or adapter/     weights and tokenizer, as `transformers` (or `peft`) loads them
    optimizer.safetensors  moments by parameter name
    random.safetensors     states of the random generators of torch, CUDA and numpy
    state.json             counters, hyper-parameters of the optimiser, Python's random state, and the caller's own values

A folder appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import random
import shutil
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agl.errors import ConfigError
from agl_grpo.learner import Learner
from agl_grpo.models import quiet

_FORMAT = 1


def save(folder: str | os.PathLike[str], learner: Learner, tokenizer: Any, extra: dict[str, Any] | None = None) -> Path:
    """Writes a checkpoint; an older one of the same name is replaced.

    Args:
        folder: where; its parents are made.
        learner: model, optimiser and counters.
        tokenizer: saved with the weights, so that the folder serves as a model.
        extra: JSON values of the caller, such as the step and the version of the resources.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    building.mkdir()
    try:
        weights = building / _weights_name(learner)
        with quiet():
            learner.model.save_pretrained(weights)  # type: ignore[operator]
            tokenizer.save_pretrained(weights)
        save_file(_moments(learner), building / "optimizer.safetensors")
        save_file(_random_tensors(), building / "random.safetensors")
        (building / "state.json").write_bytes(msgspec.json.encode(_state(learner, extra or {})))
        _sync(building)
        _replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def load(folder: str | os.PathLike[str], learner: Learner) -> dict[str, Any]:
    """Puts a checkpoint's weights, optimiser, counters and random states back, in place; returns the caller's own values.

    Raises:
        ConfigError: it is no checkpoint, of a newer format, or of another model.
    """
    source = Path(folder)
    if not (source / "state.json").is_file():
        raise ConfigError(
            f"`{source}` is no checkpoint: it has no `state.json`; "
            f"checkpoints beside it: {[path.name for path in _complete(source.parent)] or 'none'}"
        )
    state = msgspec.json.decode((source / "state.json").read_bytes())
    if state["format"] > _FORMAT:
        raise ConfigError(
            f"checkpoint `{source}` has format {state['format']}, this version of `agl-grpo` reads up to {_FORMAT}; upgrade it"
        )
    if not (source / _weights_name(learner)).is_dir():
        raise ConfigError(
            f"checkpoint `{source}` has no `{_weights_name(learner)}`: "
            f"it was made {'without' if _adapted(learner) else 'with'} LoRA; load the model the same way"
        )
    _load_weights(source / _weights_name(learner), learner)
    _load_moments(learner, load_file(source / "optimizer.safetensors"), state["groups"], source)
    learner.steps, learner.updates = state["steps"], state["updates"]
    # Last: loading a model draws random numbers.
    _restore_random(load_file(source / "random.safetensors"), state["random"])
    return state["extra"]


def latest(root: str | os.PathLike[str]) -> Path | None:
    """The complete checkpoint directly under `root` that took the most updates, or None."""
    found = _complete(Path(root))
    return max(found, key=lambda path: (msgspec.json.decode((path / "state.json").read_bytes())["updates"], path.name), default=None)


def _complete(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/state.json") if not path.parent.name.startswith("."))


def _adapted(learner: Learner) -> bool:
    return hasattr(learner.model, "peft_config")


def _weights_name(learner: Learner) -> str:
    return "adapter" if _adapted(learner) else "model"


def _load_weights(folder: Path, learner: Learner) -> None:
    model: Any = learner.model
    if _adapted(learner):
        from peft import set_peft_model_state_dict

        result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
        if result.unexpected_keys:
            raise ConfigError(f"the adapter in `{folder}` does not fit this model: it also has {result.unexpected_keys[:3]}")
        return
    with quiet():
        saved = type(model).from_pretrained(folder, dtype=model.dtype)
    try:
        model.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"the weights in `{folder}` do not fit this model: {str(error).splitlines()[-1].strip()}") from error


def _moments(learner: Learner) -> dict[str, Tensor]:
    state = learner.optimizer.state
    return {
        f"{name}|{key}": value.contiguous() for name, parameter in learner.named.items() for key, value in state.get(parameter, {}).items()
    }


def _load_moments(learner: Learner, moments: dict[str, Tensor], groups: list[dict[str, Any]], source: Path) -> None:
    unknown = {key.rsplit("|", 1)[0] for key in moments} - learner.named.keys()
    if unknown:
        raise ConfigError(f"checkpoint `{source}` has an optimiser for parameters that this model does not train: {sorted(unknown)[:3]}")
    learner.optimizer.state.clear()
    for key, value in moments.items():
        name, field = key.rsplit("|", 1)
        parameter = learner.named[name]
        learner.optimizer.state[parameter][field] = (
            value if field == "step" and parameter.device.type == "cpu" else value.to(parameter.device)
        )
    for group, saved in zip(learner.optimizer.param_groups, groups, strict=True):
        group["lr"] = saved["lr"]


def _state(learner: Learner, extra: dict[str, Any]) -> dict[str, Any]:
    kind, numbers, gauss = random.getstate()
    name, _, position, has_gauss, cached = _numpy_state()
    return {
        "format": _FORMAT,
        "steps": learner.steps,
        "updates": learner.updates,
        "groups": [{"lr": group["lr"]} for group in learner.optimizer.param_groups],
        "random": {"python": [kind, list(numbers), gauss], "numpy": [name, int(position), int(has_gauss), float(cached)]},
        "extra": extra,
    }


def _numpy_state() -> tuple[str, Any, int, int, float]:
    state: Any = np.random.get_state(legacy=True)
    return state


def _random_tensors() -> dict[str, Tensor]:
    found = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(_numpy_state()[1].astype(np.int64))}
    if torch.cuda.is_available():
        found |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def _restore_random(tensors: dict[str, Tensor], saved: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count()):
        if f"cuda{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda{index}"], index)
    kind, numbers, gauss = saved["python"]
    random.setstate((kind, tuple(numbers), gauss))
    name, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))


def _sync(folder: Path) -> None:
    """Contents reach the disk before the name does: a rename alone survives a crash of the process, not of the machine."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _replace(building: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex}")
    if target.exists():
        target.rename(old)
    building.rename(target)
    shutil.rmtree(old, ignore_errors=True)
