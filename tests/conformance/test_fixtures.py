"""The kit's fixtures: there as soon as agl-core is installed, and without cost to tests that do not use them."""

import socket
import subprocess
import sys
import urllib.request

import openai
import pytest

from agl import hookimpl
from agl.errors import ConfigError
from agl.testing.scripted import Reply

pytest_plugins = ["pytester"]


def test_they_are_there_in_any_project(pytester):
    pytester.makepyfile("def test_it(agl_plugins, memory_store, scripted_llm, no_network): assert no_network == []")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_session_that_does_not_use_them_imports_nothing_of_agl_but_the_fixtures(pytester):
    pytester.makepyfile(
        "import sys\ndef test_it(): print('loaded', sorted(n for n in sys.modules if n.split('.')[0] in ('agl', 'aiohttp', 'msgspec')))"
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-s")
    assert "loaded ['agl', 'agl.testing', 'agl.testing.fixtures']" in result.stdout.str()


def test_they_load_in_milliseconds():
    code = "import pytest, time; started = time.process_time(); import agl.testing.fixtures; print(time.process_time() - started)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.05


def test_the_plugin_manager_has_what_is_given_and_the_cores_own_and_discovers_nothing(agl_plugins, monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **given: pytest.fail("discovered"))

    class Mine:
        @hookimpl
        def agl_callback_handler(self, framework):
            return f"mine for {framework}"

    plugins = agl_plugins(Mine())
    assert plugins.callback_handler("x") == "mine for x"
    assert plugins.adapt_agent(test_they_load_in_milliseconds)
    with pytest.raises(ConfigError):
        plugins.adapt_agent(object())


async def test_the_memory_store_is_empty_and_works(memory_store):
    assert await memory_store.runs() == []


def test_the_scripted_model_says_what_a_test_sets(scripted_llm):
    llm = scripted_llm.llm(model="m")
    with openai.OpenAI(base_url=llm.base_url, api_key="k") as client:

        def ask():
            return client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": "hi"}]).choices[0].message

        assert ask().content == "ok"
        scripted_llm.answer = ["one", Reply("two")]
        assert [ask().content, ask().content] == ["one", "two"]
        scripted_llm.answer = lambda body: body["messages"][0]["content"].upper()
        assert ask().content == "HI"
    assert len(scripted_llm.requests) == 4


def test_without_a_network_only_this_machine_is_reached(no_network, scripted_llm):
    request = urllib.request.Request(f"{scripted_llm.base_url()}/embeddings", b"{}")
    assert urllib.request.urlopen(request).status == 200
    with pytest.raises(ConnectionRefusedError, match=r"`no_network` refuses '192\.0\.2\.1'"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match=r"refuses 'example\.org'"):
        urllib.request.urlopen("http://example.org/")
    with socket.socket(socket.AF_INET6) as over_6, pytest.raises(ConnectionRefusedError):
        over_6.connect(("2001:db8::1", 80))
    assert no_network == ["192.0.2.1", "example.org", "2001:db8::1"]


def test_after_a_test_without_a_network_connections_are_as_before():
    assert "connect" not in vars(socket.socket)
    assert socket.getaddrinfo.__module__ == "socket"
