"""`agl explain`: every call of a rollout, and what was learned from it or why nothing was; `agl reward`: give a rollout a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agl.commands.stores import existing_store, store_option

if TYPE_CHECKING:
    from agl.explain import Explained, ExplainedCall

_WIDE = 240


@click.command()
@click.argument("rollout")
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.pass_context
def explain(context: click.Context, rollout: str, store: str | None, as_json: bool) -> None:
    """Every call of ROLLOUT with role, tokens, parent, reward, advantage, weight, and whether it was trained and why."""
    import asyncio

    from agl.explain import explain as explained
    from agl.plugins import Plugins
    from agl.store.opening import opened

    with opened(existing_store(store)) as found:
        told = asyncio.run(explained(found, rollout, context.find_object(Plugins)))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    _show(told)


@click.command(context_settings={"ignore_unknown_options": True})  # else a negative number is taken for an option
@click.argument("rollout")
@click.argument("value", type=float)
@click.option("--name", default="reward", show_default=True, help="`reward` is that of the whole rollout.")
@click.option("--role", help="It judges this role alone.")
@click.option("--call", help="It judges one LLM call: its span id, or the beginning of it (`agl explain` lists them).")
@click.option("--source", default="feedback", show_default=True, help="Who judged.")
@store_option
def reward(rollout: str, value: float, store: str | None, **options: Any) -> None:
    """Give ROLLOUT the reward VALUE, also after it has ended. A run that waits for it (`reward_timeout`) learns from it."""
    from agl.feedback import add_reward
    from agl.rewards import LATE

    given = add_reward(existing_store(store), rollout, value, **options)
    judged = f"call {given.span_id}" if given.span_id else f"role {given.role}" if given.role else "the whole rollout"
    click.echo(f"{rollout}: {given.name} = {given.value:g} ({given.source}), for {judged}")
    if given.details.get(LATE):
        click.echo("its step is over: the reward is kept, and no run learns from it; `agl export RUN --late` writes such rollouts")


def _show(told: Explained) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:  # in a file no line has to end early
        console.width = _WIDE
    for line in _head(told):
        console.print(line, markup=False)
    columns = ("#", "call", "role", "goes on from", "prompt+sampled", "finish", "reward", "advantage", "weight", "trained", "why")
    table = Table(*(Column(name, no_wrap=name != "why") for name in columns), box=None, pad_edge=False)
    for call in told.calls:
        table.add_row(*_row(call))
    if told.calls:
        console.print(table)
    for note in told.notes:
        console.print(note, markup=False)


def _head(told: Explained) -> list[str]:
    siblings = " ".join("none" if value is None else f"{value:g}" for value in told.group_rewards)
    ended = told.status + (f" ({told.failure}: policy `{told.policy}`)" if told.failure else "")
    lines = [
        f"rollout {told.rollout_id}  run {told.run_id}  step {told.step}  {told.mode}  task {told.task_id}",
        f"attempt {told.attempt} of {told.max_attempts}: {ended}" + (f": {told.error}" if told.error else ""),
        f"reward {'none' if told.reward is None else f'{told.reward:g}'}  group {told.group_id}: {siblings}",
    ]
    for index, item in enumerate(told.rewards):
        judged = f" of call {item.span_id}" if item.span_id else f" of role {item.role}" if item.role else ""
        lines.append(f"  {item.name} = {item.value:g}{judged} (from {item.source}{', late' if index in told.late else ''})")
    made = ", ".join(f"{count} {kind}" for kind, count in told.mismatches.items())
    lines.append(f"{len(told.calls)} calls, {told.rows} rows" + (f"; conversations: {made}" if made else ""))
    return lines


def _row(call: ExplainedCall) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        str(call.number),
        call.span_id[:8] + (f".{call.choice}" if call.choice else ""),
        call.role or "",
        str(call.parent or "") + (f" {call.mismatch}" if call.mismatch else ""),
        f"{call.prompt_tokens}+{call.sampled_tokens}",
        call.finish_reason or "",
        number(call.reward, "g"),
        number(call.advantage, "+.4g"),
        number(call.weight, ".3g"),
        "yes" if call.trained else "no",
        "" if call.why == "trained" else call.why,
    ]
