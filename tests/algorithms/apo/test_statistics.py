import math
from random import Random

import pytest

from agl_apo.search.evidence import Cell
from agl_apo.search.statistics import Posterior, fit, incomplete_beta, noise_sd, paired_test, student_cdf, student_quantile


def cell(*rewards):
    made = Cell()
    for reward in rewards:
        made.add(reward)
    return made


@pytest.mark.parametrize("t", [-3.0, -0.5, 0.0, 0.2, 1.0, 7.5])
def test_student_cdf_is_exact_where_it_has_a_closed_form(t):
    assert math.isclose(student_cdf(t, 1), 0.5 + math.atan(t) / math.pi, abs_tol=1e-12)
    assert math.isclose(student_cdf(t, 2), 0.5 + t / (2 * math.sqrt(2 + t * t)), abs_tol=1e-12)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062047), (5, 2.5705818), (10, 2.2281389), (30, 2.0422725), (200, 1.9718962)])
def test_student_quantiles_are_those_of_the_tables(freedom, quantile):
    assert math.isclose(student_quantile(0.975, freedom), quantile, rel_tol=1e-7)
    assert math.isclose(student_quantile(0.025, freedom), -quantile, rel_tol=1e-7)


def test_incomplete_beta_is_exact_where_it_has_a_closed_form():
    for x in (0.0, 0.1, 0.5, 0.93, 1.0):
        assert math.isclose(incomplete_beta(3.5, 1.0, x), x**3.5, abs_tol=1e-12)
        assert math.isclose(incomplete_beta(2.0, 3.0, x), x**2 * (6 - 8 * x + 3 * x * x), abs_tol=1e-12)


def dense(parents, precision, mean, step, drift, root):
    """Posterior means and variances by inverting the joint precision matrix."""
    names = list(parents)
    size = len(names)
    matrix = [[0.0] * size for _ in names]
    right = [0.0] * size
    for row, name in enumerate(names):
        matrix[row][row] += precision.get(name, 0.0)
        right[row] += precision.get(name, 0.0) * mean.get(name, 0.0)
        parent = parents[name]
        if parent is None:
            matrix[row][row] += 1 / root[1]
            right[row] += root[0] / root[1]
            continue
        above = names.index(parent)
        for one, other, sign in ((row, row, 1), (above, above, 1), (row, above, -1), (above, row, -1)):
            matrix[one][other] += sign / step
        right[row] += drift / step
        right[above] -= drift / step
    inverse = inverted(matrix)
    return {name: sum(inverse[row][k] * right[k] for k in range(size)) for row, name in enumerate(names)}, {
        name: inverse[row][row] for row, name in enumerate(names)
    }


def inverted(matrix):
    size = len(matrix)
    rows = [[*row, *(float(place == number) for number in range(size))] for place, row in enumerate(matrix)]
    for place in range(size):
        rows[place] = [value / rows[place][place] for value in rows[place]]
        for other in range(size):
            if other != place:
                factor = rows[other][place]
                rows[other] = [value - factor * pivot for value, pivot in zip(rows[other], rows[place], strict=True)]
    return [row[size:] for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_the_posterior_over_a_tree_is_the_exact_gaussian_one(seed):
    chance = Random(seed)
    names = [f"c{number}" for number in range(12)]
    parents = {name: None if number == 0 else names[chance.randrange(number)] for number, name in enumerate(names)}
    precision = {name: chance.uniform(1, 40) for name in names if chance.random() < 0.7}
    mean = {name: chance.random() for name in names}
    found = Posterior(parents, precision, mean, step=0.02, drift=0.03, root_mean=0.4, root_variance=0.5)
    means, variances = dense(parents, precision, mean, 0.02, 0.03, (0.4, 0.5))
    for name in names:
        assert math.isclose(found.mean[name], means[name], rel_tol=1e-9)
        assert math.isclose(found.variance[name], variances[name], rel_tol=1e-9)


def test_joint_draws_have_the_means_and_variances_of_the_posterior():
    parents = {"seed": None, "a": "seed", "b": "a"}
    found = Posterior(parents, {"seed": 30.0, "b": 10.0}, {"seed": 0.5, "b": 0.9}, step=0.02, drift=0.0, root_mean=0.5)
    chance = Random(1)
    drawn = [found.sample(chance) for _ in range(20_000)]
    for name in parents:
        values = [one[name] for one in drawn]
        middle = sum(values) / len(values)
        assert math.isclose(middle, found.mean[name], abs_tol=0.01)
        assert math.isclose(sum((value - middle) ** 2 for value in values) / len(values), found.variance[name], rel_tol=0.05)


def test_a_lucky_child_is_shrunk_towards_its_parent():
    cells = {
        "seed": {("train", f"t{n}"): cell(*[float(n % 2)] * 2) for n in range(20)},
        "child": {("train", "t0"): cell(1.0), ("train", "t2"): cell(1.0)},
    }
    means = fit(cells, {"seed": None, "child": "seed"}, step_sd=0.3).posterior.mean
    assert 0.5 < means["child"] < 0.75
    assert abs(means["seed"] - 0.5) < 0.05


def test_easy_tasks_do_not_flatter_a_candidate():
    easy, hard = [f"e{n}" for n in range(10)], [f"h{n}" for n in range(10)]
    anchor = {("train", name): cell(1.0, 0.9) for name in easy} | {("train", name): cell(0.1, 0.2) for name in hard}
    cells = {
        "seed": anchor,
        "on easy": {("train", name): cell(0.95) for name in easy},
        "on hard": {("train", name): cell(0.4) for name in hard},
    }
    fitted = fit(cells, {"seed": None, "on easy": "seed", "on hard": "seed"}, step_sd=0.5)
    assert fitted.posterior.mean["on hard"] > fitted.posterior.mean["on easy"]
    assert fitted.offsets["train", "e0"] > 0.2 > -0.2 > fitted.offsets["train", "h0"]


def test_repeats_that_all_agree_are_free_of_noise_and_few_are_not():
    many = {"seed": {("train", f"t{n}"): cell(n / 10, n / 10) for n in range(8)}}
    few = {"seed": {("train", f"t{n}"): cell(n / 10, n / 10) for n in range(3)}}
    assert fit(many, {"seed": None}, step_sd=0.3).variances.noise == 0.0
    assert fit(few, {"seed": None}, step_sd=0.3).variances.noise > 0.0


def test_a_fit_can_go_on_from_an_earlier_one_and_comes_near_the_full_one():
    chance = Random(3)
    parents = {"seed": None, **{f"c{n}": "seed" for n in range(5)}}
    cells = {name: {("train", f"t{n}"): cell(float(chance.random() < 0.5)) for n in range(12)} for name in parents}
    full = fit(cells, parents, step_sd=0.3)
    going = full
    for _ in range(20):
        going = fit(cells, parents, step_sd=0.3, start=going)
    further = fit(cells, parents, step_sd=0.3, start=going)
    for name in parents:
        assert math.isclose(going.posterior.mean[name], further.posterior.mean[name], abs_tol=1e-3)
        assert math.isclose(full.posterior.mean[name], going.posterior.mean[name], abs_tol=0.05)


def test_there_is_nothing_to_fit_without_rewards():
    with pytest.raises(ValueError, match="no reward"):
        fit({}, {"seed": None}, step_sd=0.3)


def test_the_paired_test_has_the_posterior_of_the_textbook():
    found = paired_test([0.5, 0.1, 0.3, -0.1], scale=0.0)
    # Four differences: mean 0.2, squares around it 0.2, 5 degrees of freedom with the prior's two.
    error = math.sqrt(0.2 / 5 / 4)
    assert math.isclose(found.p_better, student_cdf(0.2 / error, 5))
    assert math.isclose(found.high - found.mean, 2.5705818 * error, rel_tol=1e-6)
    assert (found.n, math.isclose(found.mean, 0.2)) == (4, True)


def test_few_differences_that_agree_are_not_certain():
    assert paired_test([1.0], scale=0.5).p_better < 0.95
    assert paired_test([0.0, 0.0], scale=0.5).p_better == 0.5
    assert paired_test([1.0] * 12, scale=0.5).p_better > 0.999


def test_tasks_that_agree_without_noise_say_as_much_of_others_as_their_number_does():
    few, many = paired_test([0.2, 0.2], scale=0.0), paired_test([0.2] * 12, scale=0.0)
    assert (few.p_better, many.p_better) == (1 - 0.5**3, 1 - 0.5**13)
    assert math.isclose(few.high, 0.2)
    assert math.isclose(many.high, 0.2)
    assert math.isclose(few.low, 0.2 * math.sqrt(0.05))
    assert few.low < many.low < 0.2
    worse = paired_test([-1.0] * 3, scale=0.0)
    assert (worse.p_better, worse.low, worse.high < 0) == (0.5**4, -1.0, True)
    assert paired_test([0.0] * 9, scale=0.0).p_better == 0.5


def test_the_paired_test_is_calibrated_on_no_difference():
    chance = Random(5)
    passed = sum(paired_test([chance.gauss(0, 0.7) for _ in range(15)], scale=0.7).p_better >= 0.9 for _ in range(400))
    assert 0.06 < passed / 400 < 0.14


def test_no_common_task_is_an_error():
    with pytest.raises(ValueError, match="at least one common task"):
        paired_test([], scale=1.0)


def test_the_noise_floor_is_the_spread_of_repeats():
    cells = {"seed": {("train", "t0"): cell(0.0, 1.0), ("train", "t1"): cell(1.0, 1.0), ("train", "t2"): cell(0.5)}}
    assert math.isclose(noise_sd(cells), math.sqrt(0.5 / 2))
    assert math.isnan(noise_sd({"seed": {("train", "t0"): cell(1.0)}}))
