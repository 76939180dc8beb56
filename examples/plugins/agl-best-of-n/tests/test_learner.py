import math
from types import SimpleNamespace

import pytest
import torch

from agl_best_of_n.learner import Learner, nll


class Bigram:
    """A model of three tokens that looks one token back: the loss can be worked out by hand."""

    device = "cpu"
    table = torch.tensor([[0.50, 0.25, 0.25], [0.25, 0.25, 0.50], [0.125, 0.75, 0.125]])

    def __call__(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.table[input_ids].log())


@pytest.fixture
def learner(model_folder):
    return Learner(model_folder, lr=1e-2)


def weights(learner):
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(left, right):
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_the_loss_of_a_row_is_that_worked_out_by_hand(make_row):
    # 0 -> 1 is the prompt; sampled were 1 -> 2 (1/2), then 2 -> 0 (1/8); 0 -> 0 is a tool's answer; sampled was 0 -> 1 (1/4).
    row = make_row("a", [0, 1, 2, 0, 0, 1], trained=[2, 3, 5])
    assert nll(Bigram(), row).item() == pytest.approx((1 + 3 + 2) * math.log(2))


def test_each_rollout_weighs_the_same_and_each_of_its_tokens(learner, make_row):
    long, short = make_row("a", [1, 9, 8, 7, 6], trained=[2, 3, 4]), make_row("b", [1, 5, 4], trained=[2])
    expected = 0.5 * nll(learner.model, long).item() / 3 + 0.5 * nll(learner.model, short).item()
    assert learner.update([long, short])["loss"] == pytest.approx(expected, rel=1e-5)


def test_it_does_not_matter_how_a_rollout_is_cut_into_rows(model_folder, make_row):
    other = make_row("b", [1, 5, 4], trained=[2])
    whole = [make_row("a", [1, 9, 8, 7, 6], trained=[2, 3, 4])]
    cut = [make_row("a", [1, 9, 8, 7], trained=[2, 3]), make_row("a", [1, 9, 8, 7, 6], trained=[4])]
    gradients, losses = [], []
    for rows in (whole, cut):
        learner = Learner(model_folder, lr=1e-2)
        losses.append(learner.update([*rows, other])["loss"])
        gradients.append([value.grad for value in learner.model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)


def test_updates_make_the_tokens_more_probable(learner, make_row):
    row = make_row("a", [1, 9, 8, 7], trained=[2, 3])
    losses = [learner.update([row])["loss"] for _ in range(8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1


def test_a_gradient_that_is_not_finite_changes_nothing(learner, make_row):
    row = make_row("a", [1, 9, 8], trained=[2])
    with torch.no_grad():
        learner.model.model.norm.weight[0] = math.nan
    before = weights(learner)
    with pytest.raises(RuntimeError, match="non-finite"):
        learner.update([row])
    assert same({name: value.nan_to_num() for name, value in before.items()}, {k: v.nan_to_num() for k, v in weights(learner).items()})


def test_a_saved_learner_goes_on_exactly(model_folder, learner, make_row, tmp_path):
    rows = [make_row("a", [1, 9, 8, 7], trained=[2, 3]), make_row("b", [1, 5, 4], trained=[2])]
    learner.update(rows)
    learner.save(tmp_path / "saved")
    learner.update(rows)
    restored = Learner(tmp_path / "saved", lr=1e-2)
    restored.update(rows)
    assert same(weights(learner), weights(restored))
    fresh = Learner(tmp_path / "saved", lr=1e-2)
    (tmp_path / "saved" / "optimizer.pt").unlink()
    fresh = Learner(tmp_path / "saved", lr=1e-2)
    fresh.update(rows)
    assert not same(weights(learner), weights(fresh)), "the optimiser's moments are part of what goes on"
