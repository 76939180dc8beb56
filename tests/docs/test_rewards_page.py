"""The page on rewards is run from its first block to its last, in one session, and its settings are read."""

import re
from pathlib import Path

from agl.settings import read_settings

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_its_code_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session = {}
    for block in blocks("python"):
        exec(compile(block, "rewards.md", "exec"), session)  # the page's own code
    assert capsys.readouterr().out == blocks("text")[0]
    assert session["judge"].weight == 0.5


def test_its_settings_make_the_judge_that_they_name(tmp_path, monkeypatch):
    from agl.judges import given_rewards

    monkeypatch.chdir(tmp_path)
    (tmp_path / "agl.toml").write_text(blocks("toml")[0])
    settings = read_settings()
    [judge] = given_rewards(settings.trainer.rewards, settings.rewards)
    assert judge.name == "llm_judge"
    assert settings.trainer.reward_weights == {"reward": 1.0, "llm_judge": 0.5}
