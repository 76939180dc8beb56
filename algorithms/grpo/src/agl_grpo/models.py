"""Models: loads the policy to train, and says what is missing when it cannot."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agl.errors import ConfigError

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685) instead of full weights; needs the extra `lora`."""

    rank: int = 16
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    target_modules: tuple[str, ...] | str = "all-linear"
    path: str | None = None
    """Folder of an adapter to go on with."""


def load_policy(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, device: str = "auto", lora: LoRA | None = None
) -> tuple[nn.Module, Any]:
    """Loads a causal LM with its tokenizer.

    Args:
        path: a folder in the layout of `transformers`, or the id of a model on the hub.
        dtype: of the weights.
        device: `auto` takes a GPU where there is one.
        lora: train adapters only.

    Returns:
        The model, in evaluation mode, and the tokenizer.

    Raises:
        ConfigError: it cannot be loaded; the message names what was given, what is missing and what to do.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = os.fspath(path)
    source = _source(name)
    where = _device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        with quiet():
            model = _own_memory(AutoModelForCausalLM.from_pretrained(source, dtype=dtype))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_failure(name, error)) from error
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"the tokenizer of `{name}` has no chat template, so messages cannot become a prompt; "
            "add `chat_template.jinja` to the model's folder, or take the instruction-tuned model"
        )
    if lora is not None:
        model = with_lora(model, lora)
    moved: Any = model
    return moved.to(where).eval(), tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of `transformers`, which tear the run's own output apart."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _own_memory(model: nn.Module) -> nn.Module:
    """The model with its weights out of the mapped file: rewriting the file would drop even the pages that training changed."""
    for value in [*model.parameters(), *model.buffers()]:
        value.data = value.data.clone()
    return model


def check_model(path: str | os.PathLike[str], device: str) -> str:
    """Whether a model could be loaded, as far as its files and the device tell; loads nothing.

    Raises:
        ConfigError: as `load_policy`.
    """
    name = os.fspath(path)
    where, source = _device(device), _source(name)
    return f"{'folder' if Path(source).is_dir() else 'hub id'} {name} on {where}"


def _source(name: str) -> str:
    """A folder that has all a model needs, or a hub id."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder, name)
        return str(folder)
    if folder.exists():
        raise ConfigError(f"the model `{name}` is a file; give the folder that has its `config.json`")
    if (
        name.startswith((".", "/", "~"))
        or name.count("/") != 1
        or os.sep in name.replace("/", "", 1)
        or (folder.parent.is_dir() and str(folder.parent) != ".")
    ):
        raise ConfigError(
            f"there is no folder `{name}` (looked for `{folder.absolute()}`); "
            "give a folder with `config.json`, weights and tokenizer, or a hub id such as `owner/name`"
        )
    return name


def _check_folder(folder: Path, name: str) -> None:
    missing = []
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ConfigError(f"`{name}` holds an adapter, not a model; load its base model with `LoRA(path={name!r})`")
        missing.append("`config.json`")
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        missing.append("weights (`*.safetensors`)")
    if not any((folder / file).is_file() for file in _TOKENIZER):
        missing.append("a tokenizer (`tokenizer.json`)")
    if missing:
        found = sorted(item.name for item in folder.iterdir())[:8]
        raise ConfigError(
            f"the folder `{name}` is no model: it lacks {', '.join(missing)}; it has {found or 'nothing'}. "
            "Save one with `model.save_pretrained(folder)` and `tokenizer.save_pretrained(folder)`"
        )


def _failure(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    if Path(name).expanduser().is_dir():
        return f"the model in `{name}` cannot be loaded: {type(error).__name__}: {reason}"
    return (
        f"`{name}` is no folder here, and as a hub id it cannot be downloaded ({type(error).__name__}: {reason}); "
        "check the name and the network, log in where the model needs it, or give a local folder"
    )


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ConfigError(f'`device` must be "auto", "cpu", "cuda" or "cuda:<number>", given was {device!r}') from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f'`device` is "{device}", but torch {torch.__version__} sees no GPU; use "cpu" or "auto"')
    return where


def with_lora(model: nn.Module, lora: LoRA) -> nn.Module:
    """Puts adapters into a model, in place; only they require a gradient.

    Raises:
        ConfigError: `peft` is not installed, or the adapter does not fit the model.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ConfigError('`lora` needs the package `peft`: pip install "agl-grpo[lora]"') from error
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    # No dropout: the trainer's probabilities must be those that sampled.
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")
    try:
        with warnings.catch_warnings():
            # peft still reads an attribute that transformers has renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            if lora.path is not None:
                return peft.PeftModel.from_pretrained(model, lora.path, is_trainable=True)
            return peft.get_peft_model(model, config)
    except (ValueError, OSError) as error:
        raise ConfigError(f"the adapter {lora} does not fit the model: {error}") from error
