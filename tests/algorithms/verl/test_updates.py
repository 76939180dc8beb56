"""Which rows go into which optimiser step, and to which worker."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from agl_verl.updates import plan_updates, step_factors


def sizes_of(seed: int) -> dict[str, list[tuple[int, int]]]:
    draw, found, index = random.Random(seed), {}, 0
    for name in range(draw.randint(4, 20)):
        rows = [(index + i, draw.randint(1, 300)) for i in range(draw.randint(1, 4))]
        found[f"r{name}"] = rows
        index += len(rows)
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("parts", "ranks"), [(1, 1), (2, 1), (1, 3), (4, 2)])
def test_every_row_is_dealt_once_and_those_of_a_rollout_to_the_same_step(seed: int, parts: int, ranks: int) -> None:
    sizes = sizes_of(seed)
    plan = plan_updates(sizes, parts, ranks)
    total = sum(len(rows) for rows in sizes.values())
    assert sorted(plan.order) == list(range(len(plan.order)))
    assert len(plan.order) == parts * plan.step_rows >= total
    per_rank = plan.step_rows // ranks
    for place, index in enumerate(plan.order):  # VERL gives each worker an equal share in a row, and cuts that into steps
        assert index >= total or plan.part[index] == place % (per_rank * parts) // per_rank
    for rows in sizes.values():
        assert len({plan.part[index] for index, _ in rows}) == 1


def test_steps_have_about_as_many_tokens() -> None:
    sizes = {f"r{n}": [(n, 100)] for n in range(8)}
    plan = plan_updates(sizes, parts=4, ranks=2)
    assert Counter(plan.part.values()) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert len(plan.order) == 8


def test_no_more_padding_than_the_largest_step_asks_for() -> None:
    sizes = {"many": [(n, 10) for n in range(5)], "one": [(5, 10)]}
    plan = plan_updates(sizes, parts=2, ranks=1)
    assert (plan.step_rows, len(plan.order)) == (5, 10)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_verls_means_over_optimiser_steps_add_up_to_the_whole_steps_loss(parts: int) -> None:
    draw = random.Random(parts)
    names = [f"row{n}" for n in range(9)]
    tokens = {name: draw.randint(1, 50) for name in names}
    weights = {name: draw.random() for name in names}
    losses = {name: draw.uniform(-1, 1) for name in names}  # summed over the tokens of a row, advantage in it
    part_of = {name: index % parts for index, name in enumerate(names)}
    factors = step_factors(tokens, part_of)

    def verls_mean(part: int) -> float:
        mine = [name for name in names if part_of[name] == part]
        return sum(losses[name] * weights[name] * factors[name] for name in mine) / sum(tokens[name] for name in mine)

    whole = sum(losses[name] * weights[name] for name in names)
    assert sum(map(verls_mean, range(parts))) / parts == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_means_over_rows_of_means_over_their_tokens_add_up_to_it_too(parts: int) -> None:
    draw = random.Random(parts)
    names = [f"row{n}" for n in range(9)]
    tokens = {name: draw.randint(1, 50) for name in names}
    weights = {name: draw.random() for name in names}
    losses = {name: draw.uniform(-1, 1) for name in names}
    part_of = {name: index % parts for index, name in enumerate(names)}
    rows = 4  # of an optimiser step, padding among them
    factors = step_factors(tokens, part_of, by_row=rows)

    def verls_mean(part: int) -> float:
        mine = [name for name in names if part_of[name] == part]
        return sum(losses[name] * weights[name] * factors[name] / tokens[name] for name in mine) / rows

    whole = sum(losses[name] * weights[name] for name in names)
    assert sum(map(verls_mean, range(parts))) / parts == pytest.approx(whole, abs=1e-12)
