"""The driver: every answer is kept before the search hears it, and a search that goes on hears the same."""

import asyncio

import pytest
from apo_agent import TRAIN, VAL, ledger, repeat, set_ledger

import agl
from agl.errors import AglError, DataError
from agl_apo.driver import Driver, Limits
from agl_apo.ledger import Ledger
from agl_apo.model import ModelError
from agl_apo.moves import SEED, Candidate, Evaluate, Proposal, Propose
from agl_apo.world import World


class Toy:
    """Draws the seed on given batches, asks for one text, draws that one; notes what it is told, in order."""

    def __init__(self, batches=((0, 1, 2), (3, 4)), at_once=True):
        self.candidates = {SEED: Candidate(candidate_id=SEED, texts={"prompt_template": "Repeat the word: {word}"})}
        self.told, self.hurried, self.done, self._open, self._number, self._at_once = [], [], False, 0, 0, at_once
        self._left = [lambda batch=batch: self._evaluate(SEED, batch) for batch in batches]
        self._left.append(
            lambda: Propose(number=self._next(), parent=self.candidates[SEED], component="prompt_template", failures=(), successes=())
        )

    def _next(self):
        self._number += 1
        return self._number - 1

    def _evaluate(self, name, batch):
        return Evaluate(number=self._next(), candidate=self.candidates[name], tasks=tuple(f"t{n}" for n in batch))

    def ask(self):
        if not self._left or (self._open and not self._at_once):
            return None
        self._open += 1
        return self._left.pop(0)()

    def tell(self, move, answer):
        self._open -= 1
        self.told.append((move.number, answer))
        if isinstance(answer, Proposal) and answer.text is not None:
            self.candidates["c1"] = Candidate(candidate_id="c1", texts={"prompt_template": answer.text}, parent_id=SEED)
            self._left.append(lambda: self._evaluate("c1", (5, 6)))
        self.done = not self._open and not self._left

    def hurry(self, reason, most):
        self.hurried.append((reason, most))


class Words:
    """A proposer without a model."""

    def __init__(self, fails=False):
        self.fails = fails

    async def propose(self, move, failures, successes):
        if self.fails:
            raise AglError("no critic")
        await asyncio.sleep(0.01)
        return Proposal(text="Say: {word}", hypothesis="shorter", cost=0.25)


class Driving(agl.Algorithm):
    """A run that drives a toy search."""

    name = "driving"
    only_prompts = True

    def __init__(self, search, proposer=None, **limits):
        self.search, self.proposer = search, proposer or Words()
        self.limits = Limits(max_rollouts=20, **limits)

    async def fit(self, run):
        tasks = {"train": {task.task_id: task for task in run.train}, "val": {task.task_id: task for task in run.val}}
        kept = await Ledger.of(run)
        await kept.begin({"seed": 0})
        self.driver = Driver(run, self.search, World(run, tasks), self.proposer, kept, self.limits)
        await self.driver.drive()


@pytest.fixture
def driven(tmp_path, agents_model):
    def drive(search, proposer=None, resume=None, agent=repeat, **limits):
        algorithm = Driving(search, proposer, **limits)
        prompts = {"prompt_template": agl.PromptTemplate(template="Repeat the word: {word}")}
        trainer = agl.Trainer(
            algorithm=algorithm,
            initial_resources={"main_llm": agents_model.llm(), **prompts},
            store=tmp_path / "s.sqlite",
            quiet=True,
            max_attempts=1,
        )
        trainer.fit(agent, TRAIN, VAL, resume=resume)
        return algorithm

    return drive


def test_moves_run_at_the_same_time_and_each_under_its_own_texts(driven, agents_model):
    search = Toy()
    driven(search)
    answers = dict(search.told)
    assert [draw.task_id for draw in answers[0]] == ["t0", "t1", "t2"]
    assert [draw.task_id for draw in answers[3]] == ["t5", "t6"]
    texts = [call.body["messages"][0]["content"] for call in agents_model.requests]
    assert sorted(text for text in texts if text.startswith("Say")) == ["Say: apple5", "Say: apple6"]
    assert len(texts) == 7


def test_everything_that_the_search_was_told_is_in_the_ledger_before(driven, tmp_path):
    seen = []

    class Watching(Toy):
        def tell(self, move, answer):
            seen.append([event["event"] for event in ledger(tmp_path / "s.sqlite") if event.get("move") == move.number])
            super().tell(move, answer)

    driven(Watching(at_once=False))
    assert seen == [["draw"] * 3 + ["answered"], ["draw"] * 2 + ["answered"], ["answered"], ["draw"] * 2 + ["answered"]]


def test_a_search_that_goes_on_is_told_the_same_and_pays_for_nothing_again(driven, tmp_path, agents_model):
    with pytest.raises(AglError, match="no critic"):
        driven(Toy(at_once=False), Words(fails=True))
    kept = ledger(tmp_path / "s.sqlite")[:7]
    set_ledger(tmp_path / "s.sqlite", kept)  # the second move has its draws, and no answer
    assert [event["event"] for event in kept] == ["begin", "draw", "draw", "draw", "answered", "draw", "draw"]
    before, search = len(agents_model.requests), Toy(at_once=False)
    driven(search, resume=True)
    assert [number for number, _ in search.told] == [0, 1, 2, 3]
    assert len(agents_model.requests) == before + 2  # the two draws of the new text


def test_a_text_that_was_paid_for_is_kept_when_another_one_fails(driven, tmp_path):
    class Half(Words):
        async def propose(self, move, failures, successes):
            await asyncio.sleep(0.01 * move.number)
            if move.number == 1:
                raise ModelError("no critic")
            return Proposal(text="Say: {word}", hypothesis="shorter", cost=0.25)

    class Two(Toy):
        def __init__(self):
            super().__init__(batches=((0,),))
            self._left.append(self._left[-1])

    with pytest.raises(AglError, match=r"no critic\. What was spent is kept"):
        driven(Two(), Half())
    told = [event["proposal"]["cost"] for event in ledger(tmp_path / "s.sqlite") if event.get("proposal")]
    assert told == [0.25]


def test_rollouts_that_found_the_endpoint_down_are_tried_again_when_it_goes_on(driven, tmp_path, agents_model):
    driven(Toy(at_once=False))
    begun, drawn, *_ = ledger(tmp_path / "s.sqlite")
    set_ledger(tmp_path / "s.sqlite", [begun, {**drawn, "draw": {**drawn["draw"], "reward": None, "failure": "infrastructure"}}])
    search = Toy(at_once=False)
    driven(search, resume=True)
    assert [draw.reward for draw in dict(search.told)[0]] == [0.0, 0.0, 0.0]


def test_a_ledger_that_does_not_fit_the_search_is_refused(driven, tmp_path):
    driven(Toy(at_once=False))
    set_ledger(tmp_path / "s.sqlite", [ledger(tmp_path / "s.sqlite")[0], {"event": "answered", "move": 7}])
    with pytest.raises(DataError, match=r"answers move 7, and the search asks for \[0\]"):
        driven(Toy(at_once=False), resume=True)


def test_a_search_that_is_stuck_is_an_error_and_no_endless_wait(driven):
    class Stuck(Toy):
        def tell(self, move, answer):
            self._left.clear()

    with pytest.raises(AglError, match="asks for nothing and is not done"):
        driven(Stuck(batches=((0,),), at_once=False))


def test_when_the_time_is_up_nothing_more_is_run_and_the_search_hears_it(driven, tmp_path):
    @agl.rollout
    async def sleepy(task, prompt_template):
        await asyncio.sleep(0.0 if task["id"] == "t0" else 30)
        return 1.0

    search = Toy(batches=((0, 1, 2),), at_once=False)
    algorithm = driven(search, agent=sleepy, max_seconds=0.7)
    draws = dict(search.told)[0]
    assert [draw.reward for draw in draws] == [1.0, None, None]
    assert draws[1].failure == "not run: `max_seconds` of 0.7 is spent"
    assert search.hurried == [("`max_seconds` of 0.7 is nearly spent", 0)]
    assert dict(search.told)[1].error == "not run: `max_seconds` of 0.7 is spent"
    assert algorithm.driver.totals.rollouts == 1
    assert ledger(tmp_path / "s.sqlite")[-1]["event"] == "answered"


def test_when_the_money_is_spent_nothing_more_is_run(driven):
    search = Toy(batches=((0,),), at_once=False)
    driven(search, max_cost=0.2)  # the text alone costs 0.25
    assert [draw.failure for draw in dict(search.told)[2]] == ["not run: `max_cost` of 0.2 is spent"] * 2
    assert search.hurried == [("`max_cost` of 0.2 is nearly spent", 0)]
