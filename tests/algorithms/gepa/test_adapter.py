"""The adapter keeps gepa's protocol, in every version of gepa that is allowed, and takes no task of one split for one of the other."""

import inspect

import gepa
import pytest
from gepa.core.adapter import EvaluationBatch, GEPAAdapter

from agl_apo.moves import Draw
from agl_gepa.adapter import Adapter, Instance

TEXTS = {"a": "A", "b": "B"}


class World:
    """Rewards by split; notes what was run."""

    def __init__(self, rewards=None):
        self.ran, self.asked, self.rewards = [], [], rewards or {"train": 1.0, "val": 0.0}

    def rollouts(self, texts, split, tasks, stage):
        self.ran += [(split, task, stage) for task in tasks]
        return [Draw(task_id=task, reward=self.rewards[split], rollout_id=f"ro-{split}-{task}") for task in tasks]

    def rewrite(self, texts, component, records):
        self.asked.append((component, [(each.rollout_id, each.reward) for each in records]))
        return f"{texts[component]}!"


@pytest.mark.parametrize("method", ["evaluate", "make_reflective_dataset"])
def test_it_has_the_methods_of_gepas_protocol_with_its_parameters(method):
    theirs, ours = (inspect.signature(getattr(kind, method)).parameters for kind in (GEPAAdapter, Adapter))
    assert list(ours) == list(theirs)
    assert [each.default for each in ours.values()] == [each.default for each in theirs.values()]
    assert "propose_new_texts" in vars(GEPAAdapter)


def test_gepa_takes_every_option_that_is_passed_to_it():
    used = {
        "seed_candidate",
        "trainset",
        "valset",
        "adapter",
        "stop_callbacks",
        "logger",
        "seed",
        "raise_on_exception",
        "track_best_outputs",
    }
    used |= {
        "reflection_minibatch_size",
        "candidate_selection_strategy",
        "skip_perfect_score",
        "perfect_score",
        "use_merge",
        "max_merge_invocations",
    }
    assert used <= set(inspect.signature(gepa.optimize).parameters)


def test_an_evaluation_is_in_the_order_of_the_batch_and_counts_what_was_run():
    world = World()
    found = Adapter(world).evaluate([Instance("val", "x"), Instance("train", "x"), Instance("val", "x")], TEXTS, capture_traces=True)
    assert isinstance(found, EvaluationBatch)
    assert (found.scores, found.num_metric_calls, len(found.outputs)) == ([0.0, 1.0, 0.0], 2, 3)
    assert [each.rollout_id for each in found.trajectories] == ["ro-val-x", "ro-train-x", "ro-val-x"]
    assert world.ran == [("val", "x", "select"), ("train", "x", "gradient")]


def test_what_was_measured_is_not_run_again_and_a_task_of_the_same_id_in_the_other_split_is():
    world = World()
    adapter = Adapter(world)
    for split in ("train", "val", "train", "val"):
        found = adapter.evaluate([Instance(split, "x")], TEXTS)
        assert found.scores == [world.rewards[split]]
        assert found.trajectories is None
    assert len(world.ran) == 2
    assert adapter.evaluate([Instance("train", "x")], {**TEXTS, "a": "other"}).num_metric_calls == 1


def test_a_rollout_without_a_reward_has_a_number_for_gepa_and_is_run_again():
    world = World({"train": None, "val": 0.0})
    adapter = Adapter(world, failure_score=-1.0)
    for _ in range(2):
        assert adapter.evaluate([Instance("train", "x")], TEXTS).scores == [-1.0]
    assert len(world.ran) == 2


def test_the_critic_is_told_the_rollouts_of_the_component_that_is_rewritten():
    world = World()
    adapter = Adapter(world)
    batch = adapter.evaluate([Instance("train", "x")], TEXTS, capture_traces=True)
    data = adapter.make_reflective_dataset(TEXTS, batch, ["b"])
    assert adapter.propose_new_texts(TEXTS, data, ["b"]) == {"b": "B!"}
    assert world.asked == [("b", [("ro-train-x", 1.0)])]
