"""Every check of the framework kit as a plain function of a case: `checks.every_call_is_a_transition(case)`.

A check returns None, raises `ConformanceError` saying what is wrong, or `unittest.SkipTest` where the case does not have
what it is about.
"""

from agl.testing.framework_checks.calls import (
    a_rollout_gives_the_agents_output,
    every_call_goes_through_the_attempt,
    every_call_is_a_transition,
    retries_are_not_counted_twice,
    roles_are_those_of_the_callers,
    streams_are_recorded,
    token_ids_arrive_in_the_transitions,
    tool_calls_are_recorded,
)
from agl.testing.framework_checks.package import entry_point_resolves, imports_without_the_framework, recognises_its_own_agents_only
from agl.testing.framework_checks.resources import (
    nothing_leaks_into_the_context,
    prompts_reach_the_model,
    resources_return_after_the_attempt,
    rollouts_with_different_resources_never_mix,
    undo_leaves_the_original_objects,
)
from agl.testing.framework_checks.running import (
    a_stopped_rollout_stops_its_work,
    an_exception_fails_its_attempt_alone,
    the_event_loop_is_never_blocked,
)
from agl.testing.framework_checks.spans import gathered_runs_keep_their_spans, spans_form_one_tree, threads_keep_their_spans

__all__ = [
    "a_rollout_gives_the_agents_output",
    "a_stopped_rollout_stops_its_work",
    "an_exception_fails_its_attempt_alone",
    "entry_point_resolves",
    "every_call_goes_through_the_attempt",
    "every_call_is_a_transition",
    "gathered_runs_keep_their_spans",
    "imports_without_the_framework",
    "nothing_leaks_into_the_context",
    "prompts_reach_the_model",
    "recognises_its_own_agents_only",
    "resources_return_after_the_attempt",
    "retries_are_not_counted_twice",
    "roles_are_those_of_the_callers",
    "rollouts_with_different_resources_never_mix",
    "spans_form_one_tree",
    "streams_are_recorded",
    "the_event_loop_is_never_blocked",
    "threads_keep_their_spans",
    "token_ids_arrive_in_the_transitions",
    "tool_calls_are_recorded",
    "undo_leaves_the_original_objects",
]
