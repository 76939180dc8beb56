"""A plugin that imports its framework with itself."""

import quill

import agl


@agl.hookimpl
def agl_adapt_agent(agent):
    if isinstance(agent, quill.Agent):
        from agl_quill import Adapter

        return Adapter(agent)
    return None
