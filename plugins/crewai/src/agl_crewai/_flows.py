"""New objects of a flow: one for each attempt, since a flow holds its state and binds its methods to itself."""

from __future__ import annotations

import copy
from typing import Any

from agl.agents import is_instance_of
from agl.errors import ConfigError
from agl_crewai import _names

_OWN = frozenset({"execution_context", "human_feedback_history", "last_human_feedback", "checkpoint"})
"""Fields that a run fills in."""


class Flows:
    """Makes new flows like a given one.

    Args:
        flow: a flow's class, or an object of it. What was set on the object is on the new ones, too: containers, crews and
            agents as copies, all else as it is.

    Raises:
        ConfigError: the class cannot be called without arguments.
    """

    def __init__(self, flow: Any) -> None:
        self._class = flow if isinstance(flow, type) else type(flow)
        self._flow = None if isinstance(flow, type) else flow
        self._state = None if self._flow is None or self._flow.method_outputs else copy.deepcopy(self._flow.state)
        if self._flow is None:
            self._called()

    def make(self) -> Any:
        """A flow that has not run."""
        return self._called() if self._flow is None else self._like(self._flow)

    def _called(self) -> Any:
        try:
            return self._class()
        except TypeError as error:
            raise ConfigError(
                f"the flow `{self._class.__name__}` cannot be made without arguments ({error}); give AGL an object of it"
            ) from error

    def _like(self, flow: Any) -> Any:
        from crewai.flow import Flow

        given = {name: getattr(flow, name) for name in flow.model_fields_set - _OWN if name in type(flow).model_fields}
        made = self._class.__new__(self._class)
        Flow.__init__(made, **given)  # not the user's own `__init__`, whose arguments nobody knows
        for name, value in vars(flow).items():
            if name not in type(flow).model_fields and name not in vars(made):
                setattr(made, name, _fresh(value))
        if self._state is not None:
            _set_state(made, self._state)
        return made


def _set_state(flow: Any, state: Any) -> None:
    """The state that the user has set, under the new flow's own id."""
    values = copy.deepcopy(state if isinstance(state, dict) else vars(state))
    values.pop("id", None)
    for name, value in values.items():
        if isinstance(flow.state, dict):
            flow.state[name] = value
        else:
            setattr(flow.state, name, value)


def _fresh(value: Any) -> Any:
    from agl_crewai._copies import copy_agent, copy_crew

    if is_instance_of(value, _names.CREW):
        return copy_crew(value, None)
    if is_instance_of(value, _names.BASE_AGENT):
        return copy_agent(value, None)
    if isinstance(value, dict):
        return {name: _fresh(item) for name, item in value.items()}
    if isinstance(value, (list, set, tuple)) and type(value) in (list, set, tuple):
        return type(value)(_fresh(item) for item in value)
    return value
