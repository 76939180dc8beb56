"""Finds a better prompt for the room booking agent: with hosted models where there is a key, else on scripted ones."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from offline import REMEDIES, Booker
from rooms import SEED_PROMPT, book, make_tasks

import agl
from agl.testing import ScriptedServer
from agl_apo.testing import scripted

OPENAI = "https://api.openai.com/v1"


def main() -> None:
    """Optimise, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent-model", default="gpt-4.1-nano", help="hosted model of the agent")
    parser.add_argument("--critic-model", default="gpt-5-mini", help="hosted model that criticises")
    parser.add_argument("--editor-model", default="gpt-4.1-mini", help="hosted model that edits")
    parser.add_argument("--rollouts", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(".agl/room_booking"), help="folder of the run")
    options = parser.parse_args()
    with models(options) as (llm, critic):
        trainer = agl.Trainer(
            algorithm=agl.APO(**critic, max_rollouts=options.rollouts),
            initial_resources={"main_llm": llm, "prompt_template": agl.PromptTemplate(template=SEED_PROMPT)},
            store=options.out / "store.sqlite",
            seed=options.seed,
        )
        result = trainer.fit(book, make_tasks("train", 24), make_tasks("val", 24), test_dataset=make_tasks("test", 40))
    print(result.summary())
    print(result.diff() or "the prompt is as it was")


@contextlib.contextmanager
def models(options: argparse.Namespace) -> Generator[tuple[agl.LLM, dict[str, Any]]]:
    """The agent's model, and APO's options for critic and editor."""
    key = os.environ.get("OPENAI_API_KEY")
    if key:
        home = os.environ.get("OPENAI_BASE_URL") or OPENAI
        print(f"hosted models at {home}: agent {options.agent_model}, critic {options.critic_model}, editor {options.editor_model}")
        models = {"gradient_model": options.critic_model, "apply_edit_model": options.editor_model}
        yield agl.LLM(endpoint=home, model=options.agent_model, api_key=key), {"endpoint": home, "api_key": "$OPENAI_API_KEY", **models}
        return
    print("no OPENAI_API_KEY in the environment: agent, critic and editor are scripted, no language model is asked")
    with ScriptedServer(Booker(options.seed)) as agent, ScriptedServer(scripted(REMEDIES)) as critic:
        yield agent.llm(), {"endpoint": critic.base_url(), "model": "scripted"}


if __name__ == "__main__":
    main()
