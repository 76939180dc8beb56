"""The worlds of `benchmarks/apo`: their truth is that of what they play, and the searches meet them as the benchmark says."""

import statistics
import sys
from pathlib import Path
from random import Random

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "apo"
sys.path.insert(0, str(FOLDER))

from suites import DEV, TEST  # noqa: E402
from worlds import Parameters, Play, World, text_of  # noqa: E402


@pytest.mark.parametrize("parameters", [*DEV, *TEST], ids=lambda one: one.name)
def test_the_truth_is_the_mean_of_what_is_played(parameters):
    world, chance = World(parameters, 5), Random(0)
    for task in world.ids("val")[:3]:
        played = statistics.fmean(world.play(world.seed_texts, task, chance).reward for _ in range(1000))
        assert played == pytest.approx(world.expected(world.seed_texts, task), abs=0.055)


def test_the_truth_is_over_tasks_of_its_own():
    world = World(Parameters(name="planted"), 1)
    on_val = statistics.fmean(world.expected(world.seed_texts, task) for task in world.ids("val"))
    assert world.truth(world.seed_texts) == pytest.approx(on_val, abs=0.1)
    assert world.truth(world.seed_texts) != on_val


def test_a_needed_rule_helps_and_a_broken_prompt_fails():
    world = World(Parameters(name="planted"), 1)
    name, seed = world.names[0], world.seed_texts
    missing = next(rule for rule in world.home if f"Rule {rule}." not in seed[name])
    better = {name: seed[name].replace("Question:", f"- Rule {missing}.\nQuestion:")}
    assert world.truth(better) > world.truth(seed) + 0.01
    assert world.truth({name: seed[name].replace("{question}", "{other}")}) == 0.0
    assert world.play({name: "no placeholder"}, "val0", Random(0)) == Play(0.0, ())


def test_nothing_is_better_than_the_seed_of_a_null_world():
    parameters = next(one for one in TEST if one.name == "null")
    world, chance = World(parameters, 2), Random(0)
    seed = world.truth(world.seed_texts)
    assert all(world.truth({world.names[0]: world.blind(world.seed_texts, world.names[0], chance)}) <= seed + 1e-12 for _ in range(60))


def test_the_critic_knows_only_the_records_that_it_is_shown():
    world = World(Parameters(name="planted", hit=1.0, fixes=1, slip=0.0, breaks=0.0, silent=0.0), 1)
    name = world.names[0]
    text, idea = world.propose(world.seed_texts, name, [Play(0.0, (("add", "r9"),))], [], Random(0))
    assert idea == "add r9"
    assert "- Rule r9." in text
    _, blind = world.propose(world.seed_texts, name, [Play(1.0, ())], [], Random(0))
    assert blind.split()[1][0] in "fl"


def test_a_critic_of_one_component_finds_causes_of_that_component():
    world = World(Parameters(name="several", components=2, hit=1.0, fixes=1, silent=0.0), 1)
    shown = [Play(0.0, (("add", "r2"), ("add", "r3")))]
    ideas = {name: {world.propose(world.seed_texts, name, shown, [], Random(seed))[1] for seed in range(20)} for name in world.names}
    assert ideas == {"prompt0": {"add r2"}, "prompt1": {"add r3"}}


def test_a_conflicting_rule_hurts_and_its_narrow_form_does_not():
    world = World(Parameters(name="conflicts", conflicts=3, lures=0), 3)
    broad, narrow = next(iter(world.narrow.items()))
    family = next(iter(world.hurts[broad]))
    task = next(name for name, one in world.tasks.items() if one.family == family)
    plain, hurt, mended = ({world.names[0]: text_of(rules)} for rules in ([], [broad], [narrow]))
    assert world.expected(plain, task) == world.expected(mended, task) > world.expected(hurt, task)


def test_the_two_suites_have_the_same_kinds_of_worlds_and_other_parameters():
    assert [one.name for one in DEV] == [one.name for one in TEST]
    assert all(one != other for one, other in zip(DEV, TEST, strict=True))


def test_the_search_does_not_know_the_worlds():
    source = Path(__file__).resolve().parents[3] / "algorithms" / "apo" / "src"
    assert not [path for path in source.rglob("*.py") if "worlds" in path.read_text() and "import worlds" in path.read_text()]
    assert "agl_apo" not in (FOLDER / "worlds.py").read_text()
