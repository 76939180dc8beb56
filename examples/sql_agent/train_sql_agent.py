"""Trains the SQL agent of `sql_agent.py`, which stays as it is, and shows what it learned.

    python train_sql_agent.py                                  # embedded model and data, minutes on two CPU cores
    python train_sql_agent.py --data spider --model Qwen/Qwen2.5-Coder-0.5B-Instruct
    python train_sql_agent.py qwen|llama --data spider         # through VERL on a GPU; see train_with_verl.py

Three spellings of the same training: the graph handed over as it is, a class as users of Agent Lightning write it, a
plain function (`--spelling graph|class|function`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import agl
from data import load_spider, make_splits
from evaluate import evaluate_query
from sql_agent import build_graph

HERE = Path(__file__).parent
EMBEDDED_MODEL = HERE / "model"

graph = build_graph()


def visible(task: dict[str, Any]) -> dict[str, Any]:
    """What the agent sees of a task; the reference query is not part of it."""
    return {"question": task["question"], "db_path": task["db_path"]}


def reward(task: dict[str, Any], state: dict[str, Any]) -> float:
    """1 when the agent's query finds what the reference query finds."""
    return evaluate_query(state.get("query", ""), task["query"], task["db_path"])


class LitSQLAgent(agl.LitAgent):
    """The class form."""

    def rollout(self, task: dict[str, Any], resources: agl.Resources, rollout: agl.Rollout) -> float:
        """Builds the graph on the attempt's own endpoint and runs it."""
        llm = resources["main_llm"]
        agent = build_graph(
            base_url=llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id), model=llm.model, **llm.sampling_parameters
        )
        state = agent.invoke(visible(task), {"callbacks": [self.tracer.get_langchain_handler()]})
        return reward(task, state)


@agl.rollout
def sql_function(task: dict[str, Any], llm: agl.LLM) -> float:
    """The function form: the graph finds its endpoint by itself."""
    return reward(task, graph.invoke(visible(task)))


SPELLINGS: dict[str, Any] = {
    "graph": agl.agent(graph, input=visible, reward=reward, name="sql_agent"),
    "class": LitSQLAgent(),
    "function": sql_function,
}


def main() -> None:
    """Trains by the command line's options."""
    if sys.argv[1:2] in (["qwen"], ["llama"]):
        import train_with_verl

        train_with_verl.main(SPELLINGS["class"])
        return
    options = arguments()
    train, val, test = datasets(options)
    trainer = agl.Trainer(
        n_runners=options.runners,
        algorithm=algorithm(options),
        adapter={"agent_match": "write|rewrite"},
        store=options.out / "store.sqlite",
        seed=options.seed,
        timeout=120,
    )
    result = trainer.fit(
        SPELLINGS[options.spelling], train_dataset=train, val_dataset=val, test_dataset=test, resume=options.resume or None
    )
    show(result, trainer.console)


def algorithm(options: argparse.Namespace) -> agl.Algorithm:
    """GRPO, with what suits the embedded model, or usual values for another."""
    if options.model is None:
        # Adam's first steps are of full size whatever the gradient says: the warm-up and the pull to the start keep
        # chance from flipping habits, as the control with shuffled rewards shows.
        small = dict(steps=30, lr=3e-4, schedule="linear", warmup=10, minibatches=2, kl_coef=0.4, max_tokens=64)
        return agl.GRPO(EMBEDDED_MODEL, **{**small, **given(options)})
    return agl.GRPO(options.model, **{**dict(steps=200, batch_size=32, group_size=4, lr=1e-6, max_tokens=512), **given(options)})


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Options of GRPO that the command line sets."""
    values = {"steps": options.steps, "lr": options.lr, "shuffle_rewards": options.shuffle_rewards or None}
    return {name: value for name, value in values.items() if value is not None}


def datasets(options: argparse.Namespace) -> tuple[list[Any], list[Any], list[Any]]:
    """Training, validation and held-out tasks."""
    if options.data is None:
        return make_splits(options.out / "databases", seed=0)
    train, dev = load_spider(options.data, "train"), load_spider(options.data, "dev")
    return train, dev[:100], dev[100:]


def show(result: agl.FitResult, console: Any) -> None:
    """The table before and after, the report's place, and the figures as one JSON line."""
    from agl.report.table import before_after_table

    report = result.report()
    console.show(before_after_table(result.before, result.after))
    console.say(result.summary())
    console.say(f"curve: {report.with_suffix('.png')}\nreport: {report}")
    figures = {"before": result.before.mean, "after": result.after.mean, "seconds": round(result.seconds, 1), "report": str(report)}
    print(json.dumps(figures), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Spider's folder as published; default: generated databases and questions")
    parser.add_argument("--model", help="Hugging Face model, folder or id; default: the embedded one")
    parser.add_argument("--spelling", choices=SPELLINGS, default="graph")
    parser.add_argument("--out", type=Path, default=Path(".agl"), help="folder for store, databases, checkpoints and report")
    parser.add_argument("--runners", type=int, default=32, help="most rollouts at the same time")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shuffle-rewards", action="store_true", help="control run: nothing can be learned")
    parser.add_argument("--resume", action="store_true", help="go on with the folder's unfinished run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
