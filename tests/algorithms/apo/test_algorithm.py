"""APO from end to end over HTTP: the prompt that is returned is the one that the model gets, and the result says what it is worth."""

import json

import pytest
from apo_agent import CAPITALS, MARK, SEED_PROMPT, TEST, TRAIN, VAL, repeat

import agl


def test_it_finds_both_rules_from_the_records_alone(trainer, agents_model):
    made = trainer()
    result = made.fit(repeat, TRAIN, VAL, test_dataset=TEST)
    best = result.resources["prompt_template"].template
    assert CAPITALS in best
    assert MARK in best
    assert "{word}" in best
    assert made.algorithm.get_best_prompt().template == best
    assert (result.before.mean, result.after.mean) == (0.0, 1.0)
    assert result.resources["main_llm"].endpoint == agents_model.base_url()
