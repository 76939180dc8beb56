"""The kit for framework plugins: derive a class, say what the plugin is and how to build a small agent, and run pytest.

    from agl.testing import FrameworkConformance

    class TestMyFramework(FrameworkConformance):
        plugin = "agl_my_framework.plugin"
        frameworks = ("my_framework",)
        entry_point = "my_framework"
        roles = ("planner", "planner/writer")

        def make_agent(self, llm):
            from my_framework import Agent, Model
            return Agent("planner", Model(llm.base_url, llm.api_key, llm.model))

The agent runs as AGL runs it: with the plugin and the core's own, a store, a gateway and runners; its model is a script.
"""

from __future__ import annotations

from collections.abc import Callable

from agl.testing import checks
from agl.testing.case import FrameworkCase
from agl.testing.expected import Conformance
from agl.testing.framework_checks import Check


def _test(check: Check) -> Callable[[FrameworkConformance], None]:
    """A check as a method that pytest collects; neither needs a fixture nor an asyncio plugin."""

    def test(self: FrameworkConformance) -> None:
        check(self)

    test.__doc__, test.__name__ = check.__doc__, f"test_{check.__name__}"
    test.__qualname__ = f"FrameworkConformance.{test.__name__}"
    return test


class FrameworkConformance(FrameworkCase, Conformance):
    """What AGL's contract promises of a framework plugin. See `FrameworkCase` for what to define, `Conformance` for expected failures."""

    test_imports_without_the_framework = _test(checks.imports_without_the_framework)
    test_entry_point_resolves = _test(checks.entry_point_resolves)
    test_recognises_its_own_agents_only = _test(checks.recognises_its_own_agents_only)
    test_a_rollout_gives_the_agents_output = _test(checks.a_rollout_gives_the_agents_output)
    test_every_call_goes_through_the_attempt = _test(checks.every_call_goes_through_the_attempt)
    test_every_call_is_a_transition = _test(checks.every_call_is_a_transition)
    test_roles_are_those_of_the_callers = _test(checks.roles_are_those_of_the_callers)
    test_token_ids_arrive_in_the_transitions = _test(checks.token_ids_arrive_in_the_transitions)
    test_spans_form_one_tree = _test(checks.spans_form_one_tree)
    test_gathered_runs_keep_their_spans = _test(checks.gathered_runs_keep_their_spans)
    test_threads_keep_their_spans = _test(checks.threads_keep_their_spans)
    test_rollouts_with_different_resources_never_mix = _test(checks.rollouts_with_different_resources_never_mix)
    test_streams_are_recorded = _test(checks.streams_are_recorded)
    test_tool_calls_are_recorded = _test(checks.tool_calls_are_recorded)
    test_retries_are_not_counted_twice = _test(checks.retries_are_not_counted_twice)
    test_prompts_reach_the_model = _test(checks.prompts_reach_the_model)
    test_an_exception_fails_its_attempt_alone = _test(checks.an_exception_fails_its_attempt_alone)
    test_a_stopped_rollout_stops_its_work = _test(checks.a_stopped_rollout_stops_its_work)
    test_the_event_loop_is_never_blocked = _test(checks.the_event_loop_is_never_blocked)
    test_resources_return_after_the_attempt = _test(checks.resources_return_after_the_attempt)
    test_undo_leaves_the_original_objects = _test(checks.undo_leaves_the_original_objects)
    test_nothing_leaks_into_the_context = _test(checks.nothing_leaks_into_the_context)
