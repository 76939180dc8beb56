"""A Trainer with APO on scripted endpoints: a model that obeys its prompt, and a critic that knows nothing but the records."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `apo_agent`

import pytest
from apo_agent import REMEDIES, SEED_PROMPT, obey

import agl
from agl.testing import ScriptedServer
from agl_apo.testing import scripted


@pytest.fixture
def agents_model():
    with ScriptedServer(obey) as server:
        yield server


@pytest.fixture
def critic():
    with ScriptedServer(scripted(REMEDIES)) as server:
        yield server


@pytest.fixture
def trainer(tmp_path, agents_model, critic):
    """Makes a Trainer with APO on the scripted endpoints."""

    def make(*, apo=None, resources=None, **options):
        apo = {
            "endpoint": critic.base_url(),
            "model": "critic",
            "max_rollouts": 80,
            "probe_tasks": 4,
            "screen_tasks": 4,
            "backoff": 0.0,
            **(apo or {}),
        }
        prompts = {"prompt_template": agl.PromptTemplate(template=SEED_PROMPT)} if resources is None else resources
        return agl.Trainer(
            algorithm=agl.APO(**apo),
            initial_resources={"main_llm": agents_model.llm(), **prompts},
            store=tmp_path / "store.sqlite",
            quiet=True,
            **options,
        )

    return make
