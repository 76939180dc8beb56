"""The native engine as a driver, and GRPO with an engine by name or as an object."""

import pytest

import agl
from agl.engines import Policy
from agl.errors import ConfigError, EngineError, PluginError
from agl.registry import load
from agl_grpo.native import NativeEngine


def test_the_driver_native_is_this_engine_and_grpo_takes_it_unless_told():
    assert load("agl.engines", "native") is NativeEngine
    grpo = agl.GRPO("model", max_batch=5, max_tokens=7, port=0)
    assert (type(grpo.engine), grpo.engine.max_batch, grpo.engine.max_tokens, grpo.config()["engine"]) == (NativeEngine, 5, 7, "native")


def test_an_engine_may_be_given_as_an_object():
    mine = NativeEngine(max_batch=3)
    assert agl.GRPO("model", engine=mine).engine is mine


@pytest.mark.parametrize("option", ["max_batch", "port"])
def test_options_of_an_engine_that_is_an_object_are_refused(option):
    with pytest.raises(
        ConfigError, match=rf"\['{option}'\] are options of the engine, which was given as an object; give them to NativeEngine"
    ):
        agl.GRPO("model", engine=NativeEngine(), **{option: 1})


def test_an_unknown_engine_lists_those_there_are():
    with pytest.raises(PluginError, match=r"no engine is named `sglang`; there are .*'native', 'vllm'"):
        agl.GRPO("model", engine="sglang")


def test_a_driver_that_is_no_engine_is_refused(install_engine):
    install_engine("class Mine: pass\n")
    with pytest.raises(ConfigError, match=r"the engine `mine` must be a class derived from `agl\.engines\.Engine`"):
        agl.GRPO("model", engine="mine")


def test_an_engine_that_is_not_started_has_no_version_and_can_be_stopped():
    with pytest.raises(EngineError, match=r"the engine is not started; call `start\(policy\)` first"):
        _ = NativeEngine().version


async def test_an_engine_serves_one_policy_at_a_time(model, tokenizer):
    engine, policy = NativeEngine(threads=1), Policy(module=model, tokenizer=tokenizer)
    endpoint = await engine.start(policy)
    try:
        with pytest.raises(EngineError, match="the engine serves already"):
            await engine.start(policy)
        other = NativeEngine(port=int(endpoint.split(":")[2].split("/")[0]))
        with pytest.raises(EngineError, match="cannot listen on"):
            await other.start(policy)
        await other.stop()
    finally:
        await engine.stop()


@pytest.fixture
def install_engine(tmp_path, monkeypatch):
    def install(code):
        info = tmp_path / "agl_mine-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agl-mine\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[agl.engines]\nmine = agl_mine_engine:Mine\n")
        (tmp_path / "agl_mine_engine.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install
