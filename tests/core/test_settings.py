"""agl.toml: what it may say, and the one error when it says something else."""

import pytest

from agl.errors import ConfigError
from agl.settings import Settings, read_settings


def test_without_a_file_there_are_defaults(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read_settings() == Settings()


def test_the_working_directorys_file_is_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agl.toml").write_text(
        '[plugins]\ndisabled = ["a"]\n[trainer]\nalgorithm = "grpo"\nreward_weights = {reward = 1, style = 0.5}\n[algorithms.grpo]\nlr = 1e-5\n'
    )
    found = read_settings()
    assert found.plugins.disabled == ("a",)
    assert (found.trainer.algorithm, found.trainer.reward_weights) == ("grpo", {"reward": 1.0, "style": 0.5})
    assert found.algorithms == {"grpo": {"lr": 1e-5}}


def test_the_environment_names_another_file_which_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("AGL_CONFIG", str(tmp_path / "other.toml"))
    with pytest.raises(ConfigError, match=r"\$AGL_CONFIG names .*other.toml`, which does not exist"):
        read_settings()
    (tmp_path / "other.toml").write_text('[trainer]\nexecutor = "thread"')
    assert read_settings().trainer.executor == "thread"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[plugin]", "unknown field `plugin`"),
        ('[plugins]\norders = ["a"]', "unknown field `orders`"),
        ('[plugins]\norder = "a"', r"Expected `array`, got `str` - at `\$.plugins.order`"),
        ("[trainer]\nlearning_rate = 1", "unknown field `learning_rate`"),
        ("[plugins", "cannot be used"),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_what_it_may_hold(monkeypatch, tmp_path, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agl.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_settings()
    assert "[plugins] disabled, required, order; [trainer] algorithm" in str(caught.value)
