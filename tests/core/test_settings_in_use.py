"""What agl.toml says holds for every Trainer and for `agl train`; what a script or an option says goes first."""

import sys

import pytest

import agl
from agl.algorithms import Algorithm
from agl.errors import ConfigError, PluginError
from agl.runner import ThreadExecutor

ALGORITHM = """
from agl.algorithms import Algorithm
class Mine(Algorithm):
    name = "mine"
    def __init__(self, size=1):
        self.size = size
"""


@pytest.fixture
def settings(tmp_path, monkeypatch, install_package):
    monkeypatch.chdir(tmp_path)
    install_package("my-dist", {"mine": "my_algorithm:Mine"}, "agl.algorithms", my_algorithm=ALGORITHM)

    def write(text):
        (tmp_path / "agl.toml").write_text(text)

    return write


def test_an_algorithm_named_in_the_settings_is_made_with_its_options(settings):
    settings('[trainer]\nalgorithm = "mine"\nn_runners = 3\n[algorithms.mine]\nsize = 7')
    trainer = agl.Trainer()
    assert (trainer.algorithm.name, trainer.algorithm.size, trainer.n_runners) == ("mine", 7, 3)
    settings('[trainer]\nalgorithm = "nosuch"')
    with pytest.raises(PluginError, match="no algorithm is named `nosuch`"):
        agl.Trainer()


def test_what_a_script_gives_goes_before_the_settings(settings):
    settings('[trainer]\nalgorithm = "nosuch"\nexecutor = "nosuch"\nn_runners = 3\ntrackers = ["nosuch"]')
    given = Algorithm()
    trainer = agl.Trainer(algorithm=given, executor="thread", n_workers=5, trackers=[])
    assert (trainer.algorithm, trainer.executor, trainer.n_runners, list(trainer.trackers)) == (given, ThreadExecutor, 5, [])


def test_options_of_the_command_line_are_put_over_those_of_the_settings(settings):
    from agl.cli import _algorithm

    settings("[algorithms.mine]\nsize = 7")
    assert _algorithm("mine", ()).size == 7
    assert _algorithm("mine", ("mine.size=9",)).size == 9


def test_the_cores_own_executor_is_the_default_whoever_brings_one_of_that_name(settings, install_package):
    install_package("rogue-dist", {"thread": "rogue:Executor"}, "agl.executors", rogue="raise RuntimeError('imported')")
    assert agl.Trainer().executor is ThreadExecutor
    with pytest.raises(PluginError, match="`agl-core:thread` or `rogue-dist:thread`"):
        agl.Trainer(executor="thread")
    assert "rogue" not in sys.modules


def test_settings_that_cannot_work_stop_a_trainer_before_anything_starts(settings):
    settings("[trainer]\nn_runners = 0")
    with pytest.raises(ConfigError, match="`n_runners` must be an integer of at least 1"):
        agl.Trainer()
