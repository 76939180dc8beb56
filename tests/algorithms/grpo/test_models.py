"""Loading a policy: what is there is loaded, what is missing is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from agl.errors import ConfigError
from agl_grpo.models import LoRA, load_policy


@pytest.fixture
def folder(tmp_path: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_saved_model_comes_back_with_its_tokenizer(folder: Path, model: Any, tokenizer: Any) -> None:
    loaded, words = load_policy(folder, device="cpu")
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), loaded.parameters(), strict=True))
    assert not loaded.training
    assert words.chat_template == tokenizer.chat_template
    assert next(load_policy(folder, dtype=torch.bfloat16, device="cpu")[0].parameters()).dtype == torch.bfloat16


def test_weights_stay_what_they_are_when_their_file_is_written_anew(folder: Path) -> None:
    loaded, _ = load_policy(folder, device="cpu")
    before = [value.detach().clone() for value in loaded.parameters()]
    file = folder / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as handle:  # in place, as `save_pretrained` into the same folder may do
        handle.truncate(0)
        handle.write(bytes(size))
    assert all(torch.equal(old, new) for old, new in zip(before, loaded.parameters(), strict=True))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "models/deep/path", "~/nowhere-at-all"])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no folder `{name}`"):
        load_policy(name)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("config.json", "`config.json`"),
        ("model.safetensors", "weights"),
        ("tokenizer*", "a tokenizer"),
        ("chat_template.jinja", "no chat template"),
    ],
)
def test_what_a_folder_lacks_is_named(folder: Path, missing: str, says: str) -> None:
    for path in folder.glob(missing):
        path.unlink()
    with pytest.raises(ConfigError, match=says) as raised:
        load_policy(folder, device="cpu")
    assert str(folder) in str(raised.value)


def test_broken_weights_are_one_clear_error(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_policy(folder, device="cpu")


def test_a_file_and_an_adapter_are_told_apart_from_a_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a file"):
        load_policy(folder / "config.json")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds an adapter"):
        load_policy(tmp_path / "adapter")


def test_a_hub_id_that_cannot_be_downloaded_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def fail(name: str, **options: Any) -> None:
        raise OSError(f"We couldn't connect to 'https://huggingface.co' to load {name}\nsecond line")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(ConfigError, match="`someone/model` is no folder here, and as a hub id it cannot be downloaded") as raised:
        load_policy("someone/model")
    assert "second line" not in str(raised.value)


def test_a_device_that_is_not_there_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no GPU"):
        load_policy(folder, device="cuda")
    with pytest.raises(ConfigError, match="`device` must be"):
        load_policy(folder, device="fast")


def test_lora_adds_adapters_and_freezes_the_rest(folder: Path) -> None:
    model, _ = load_policy(folder, device="cpu", lora=LoRA(rank=2))
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with pytest.raises(ConfigError, match="does not fit the model"):
        load_policy(folder, device="cpu", lora=LoRA(target_modules=("no_such_layer",)))


def test_lora_without_peft_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r'pip install "agl-grpo\[lora\]"'):
        load_policy(folder, device="cpu", lora=LoRA())
