"""Options: own names and the reference's, each with an effect, unknown ones refused."""

import pytest

import agl
from agl.errors import ConfigError
from agl_apo.options import Settings
from agl_apo.search import Beam, BeamOptions, Racing, beam_rollouts


def search(**options):
    return Settings(options).search(
        {"p": "Say {x}."}, ["a", "b", "c", "d"] * 1, [f"v{n}" for n in range(30)], seed=0, records=lambda ids: []
    )


def test_it_is_a_name_of_agl_as_in_agent_lightning():
    from agl import APO

    apo = APO(lambda messages: "", gradient_batch_size=4, val_batch_size=16, beam_width=4, branch_factor=4, beam_rounds=3)
    assert isinstance(apo, agl.Algorithm)
    assert apo.settings.rollouts(val_tasks=30, train_tasks=30) == 1224


def test_it_is_named_with_the_options_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agl.toml").write_text(
        '[algorithms.apo]\nendpoint = "http://127.0.0.1:9/v1"\nmodel = "m"\nmax_rollouts = 99\nprice = [1.0, 2.0]\n'
    )
    made = agl.Trainer(algorithm="apo", quiet=True).algorithm
    assert (made.settings.own.max_rollouts, made.settings.model.price) == (99, (1.0, 2.0))


def test_a_budget_of_its_own_is_taken_as_it_is():
    assert Settings({}).rollouts(30, 30) == 240
    assert Settings({"max_rollouts": 77}).rollouts(30, 30) == 77


def test_the_references_names_size_its_own_search_or_the_budget_of_the_default_one():
    sizes = {"gradient_batch_size": 2, "val_batch_size": 10, "beam_width": 2, "branch_factor": 2, "beam_rounds": 2}
    beam, racing = search(strategy="beam", **sizes), search(**sizes)
    assert isinstance(beam, Beam)
    assert beam.options == BeamOptions(**sizes)
    assert isinstance(racing, Racing)
    assert racing.options.max_rollouts == beam_rollouts(BeamOptions(**sizes), 30, 4)


def test_options_of_search_guards_and_models_reach_them():
    made = search(confidence=0.95, screen_tasks=3, required={"p": ["Say"]}, max_growth=2.0)
    assert (made.options.confidence, made.options.screen_tasks) == (0.95, 3)
    assert (made.options.guards.required, made.options.guards.max_growth) == ({"p": ("Say",)}, 2.0)
    assert Settings({"retries": 2}).model.retries == 2


def test_braces_are_text_in_prompts_that_nothing_fills_in():
    settings = Settings({})
    made = settings.search(
        {"w.system_prompt": 'Answer {"a": 1}.', "c.goal": "Find {topic}.", "own": "No braces."}, ["t"], ["v"], seed=0, records=list
    )
    assert made.options.guards.plain == ("w.system_prompt",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_rolouts": 3}, r"APO has no option \['max_rolouts'\]; it has \['prompts', 'max_rollouts'"),
        ({"max_rollouts": "many"}, r"an option of APO is wrong: .*max_rollouts"),
        ({"max_rollouts": 0}, "`max_rollouts` must be positive, given was 0"),
        ({"strategy": "annealing"}, r"`strategy` must be one of \['racing', 'beam'\], given was 'annealing'"),
        ({"beam_width": 0}, "`beam_width` must be at least 1"),
        ({"beam_width": 2, "max_rollouts": 9}, r"\['beam_width'\] have no effect beside `max_rollouts`"),
        ({"strategy": "beam", "max_rollouts": 9}, r"\['max_rollouts'\] have no effect beside `strategy=\"beam\"`"),
        ({"strategy": "beam", "max_seconds": 9}, r"\['max_seconds'\] have no effect"),
        ({"run_initial_validation": False}, r"\['run_initial_validation'\] have no effect beside `strategy=\"racing\"`"),
        ({"max_cost": 1.0}, "`max_cost` has no effect without prices"),
        ({"repairs": 0, "repair_prompt": "mend.md"}, r"\['repair_prompt'\] have no effect beside `repairs=0`"),
        ({"rollout_batch_timeout": 60}, r"no longer has `rollout_batch_timeout`: rollouts have a deadline each: `Trainer\(timeout=…\)`"),
        ({"gradient_prompt_files": []}, "give one file: `critique_prompt=`"),
    ],
)
def test_what_is_unknown_wrong_or_without_effect_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Settings(options)


def test_a_search_that_cannot_begin_says_why_as_a_configuration_error():
    with pytest.raises(ConfigError, match="APO cannot begin: `max_rollouts` is 3, the probe alone takes"):
        search(max_rollouts=3)
    with pytest.raises(ConfigError, match=r"APO cannot begin: the beam search changes one prompt"):
        Settings({"strategy": "beam"}).search({"a": "x", "b": "y"}, ["t"], ["v"], seed=0, records=list)


def test_a_dry_run_says_the_budget_and_who_criticises_and_what_would_not_work():
    told = agl.APO(endpoint="http://127.0.0.1:9/v1", model="m").dry_run(train=24, val=0)
    assert told.facts == {
        "search": "racing",
        "tasks": "12 to learn from, 12 for validation",
        "rollouts": "at most 240, and the test set once or twice",
        "models": "critic m at http://127.0.0.1:9/v1, editor m at http://127.0.0.1:9/v1",
    }
    assert told.problems == ()
    [problem] = agl.APO(endpoint="http://127.0.0.1:9/v1", model="m", max_rollouts=4).dry_run(train=24, val=10).problems
    assert "`max_rollouts` is 4" in problem


def test_the_record_of_a_run_has_no_key():
    assert Settings({"api_key": "secret", "model": "m"}).config() == {"model": "m"}
