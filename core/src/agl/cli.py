"""The `agl` command line. Commands import what they need when they run, so that `agl --help` is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from agl import __version__
from agl.commands.stores import existing_store, store_of, store_option
from agl.errors import AglError, ConfigError

TRACEBACK_VARIABLE = "AGL_TRACEBACK"
"""Set to anything: errors of the `agl` command come with their traceback."""


class _Group(click.Group):
    """Shows AGL's own errors as one readable line; `AGL_TRACEBACK=1` shows where they came from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AglError as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
@click.version_option(__version__)
def cli() -> None:
    """Train the agent you already have."""


_reward = click.option("--reward", help="`module:function` of (task, output).")
_input = click.option("--input", "input_", help="`module:function`: task -> what the agent sees.")
_runners = click.option("--runners", default=8, show_default=True, help="Most rollouts at the same time.")
_command = click.option("--agent", "command", metavar="COMMAND", help='A program as the agent, in place of AGENT: "node agent.mjs".')
_match = click.option("--agent-match", help="Regular expression: only calls of matching roles are learned from.")


@cli.command()
@click.argument("agent", required=False)
@_command
@click.option("--data", type=click.Path(path_type=Path), help="Training tasks: .jsonl, .json or .parquet.")
@click.option("--val", type=click.Path(path_type=Path), help="Validation tasks.")
@click.option("--test", type=click.Path(path_type=Path), help="Held-out tasks, measured before and after.")
@click.option("--algorithm", help="Name of an installed algorithm, such as grpo; default: the one of agl.toml.")
@click.option("--executor", help="Name of an installed executor, such as thread.")
@click.option("--tracker", "trackers", multiple=True, metavar="NAME[=WHERE]", help="An installed tracker, such as jsonl=runs.jsonl.")
@click.option("--set", "settings", multiple=True, metavar="NAME.OPTION=VALUE", help="An option of the algorithm: grpo.lr=1e-5.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--resume", is_flag=False, flag_value="latest", metavar="[RUN]", help="Go on with a stopped run (the latest when none is named)."
)
@click.option("--endpoint", help="OpenAI-compatible base URL of the agent's model, for an algorithm that serves none, such as apo.")
@click.option("--model", help="Model name there.")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="NAME=FILE", help="A prompt that the agent is given by name: prompt_template=ask.txt."
)
@_reward
@_input
@click.option("--runners", type=int, help="Most rollouts at the same time; default: 8.")
@_match
@store_option
@click.pass_context
def train(context: click.Context, agent: str | None, resume: str | None, **options: Any) -> None:
    """Train AGENT (`module:object`, or a program: `--agent`) on a dataset, or go on with a run that was stopped."""
    asked = agent or options["command"]
    if resume is not None and asked is None:
        _refuse_beside_resume(context)
        _resume(store_of(options["store"]), resume)
    from agl.settings import read_settings

    algorithm = options["algorithm"] or read_settings().trainer.algorithm
    needed = {"AGENT or --agent": asked, "--data": options["data"], "--algorithm": algorithm}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise click.UsageError(f"missing {', '.join(missing)} (or `--resume` to go on with a run)")
    _refuse_served(str(algorithm), options)
    from agl.trainer import Trainer

    trainer = Trainer(
        algorithm=_algorithm(str(algorithm), options["settings"]),
        initial_resources=_resources(options),
        n_runners=options["runners"],
        adapter={"agent_match": options["agent_match"]} if options["agent_match"] else None,
        store=options["store"],
        executor=options["executor"],
        trackers=options["trackers"] or None,
        seed=options["seed"],
    )
    result = trainer.fit(
        _agent(agent, options),
        train_dataset=read_tasks(options["data"]),
        val_dataset=read_tasks(options["val"]) if options["val"] else None,
        test_dataset=read_tasks(options["test"]) if options["test"] else None,
        resume=resume,
    )
    click.echo(result.summary())


@cli.command()
@click.argument("agent", required=False)
@_command
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Tasks; the first ten are taken.")
@click.option("--endpoint", required=True, help="OpenAI-compatible base URL.")
@click.option("--model", required=True, help="Model name there.")
@_reward
@_input
@_runners
def dev(agent: str | None, data: Path, endpoint: str, model: str, runners: int, **options: Any) -> None:
    """Try AGENT (`module:object`, or a program: `--agent`) on ten tasks: every span as a tree, nothing learned."""
    if agent is None and options["command"] is None:
        raise click.UsageError("missing AGENT or --agent")
    from agl.resources import LLM
    from agl.trainer import Trainer

    llm = LLM(endpoint=endpoint, model=model, api_key=os.environ.get("OPENAI_API_KEY"))
    Trainer(initial_resources={"main_llm": llm}, n_runners=runners).dev(_agent(agent, options), read_tasks(data))


@cli.command()
@store_option
def runs(store: str | None) -> None:
    """List the runs of a store."""
    import asyncio
    import time

    from agl.store.opening import opened

    with opened(existing_store(store, "a run makes one, or name another with `--store`")) as found:
        records = asyncio.run(found.runs())
    for record in records:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created_at))
        click.echo(f"{record.run_id}  {started}  {record.status:<8} {record.step:>5} steps  {record.config.get('algorithm')}")


@cli.command()
@click.argument("run")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write; default: in the run's folder.")
@store_option
def report(run: str, out: Path | None, store: str | None) -> None:
    """Write the HTML report of RUN and its curve as PNG."""
    from agl.report import write_report

    click.echo(write_report(existing_store(store), run, out))


def main() -> None:
    """Entry point of the `agl` command."""
    from agl.plugins import Plugins

    sys.path.insert(0, os.getcwd())  # `module:object` means the user's own modules, as with `python -m`
    plugins = Plugins()
    plugins.register_commands(cli)
    cli(obj=plugins)


def _resume(given: str, run: str) -> None:
    """Start the command that began a run again, told to go on with it. Does not return."""
    import asyncio

    from agl.resuming import run_to_resume
    from agl.store.opening import opened
    from agl.store.urls import without_password
    from agl.trainer import RESUME_VARIABLE

    with opened(existing_store(given)) as store:
        record = asyncio.run(run_to_resume(store, run))
    if not record.command:
        raise ConfigError(f"run `{record.run_id}` of store `{without_password(given)}` was begun by no command; it cannot go on")
    os.chdir(record.folder)
    os.environ[RESUME_VARIABLE] = record.run_id
    sys.stdout.flush()
    command = [text.replace(without_password(given), given) for text in record.command]  # the record has no password
    os.execv(command[0], command)


def _refuse_beside_resume(context: click.Context) -> None:
    """A run goes on with the command that began it; no option of another command reaches it."""
    given = [option.opts[0] for option in context.command.params if _is_given(context, option) and option.name not in ("resume", "store")]
    if given:
        raise click.UsageError(
            f"`--resume` without AGENT starts the run's own command again, so that {', '.join(given)} would have no effect; leave that out, "
            "or give the whole command, with AGENT or --agent"
        )


def _is_given(context: click.Context, option: click.Parameter) -> bool:
    return context.get_parameter_source(str(option.name)) is click.core.ParameterSource.COMMANDLINE


def _refuse_served(name: str, options: dict[str, Any]) -> None:
    """An endpoint of the agent's model, where the algorithm trains that model and serves it itself."""
    from agl.registry import load

    short = name.rpartition(":")[2]
    given = [f"--{option}" for option in ("endpoint", "model") if options[option] is not None]
    say, them = ("say", "them") if len(given) > 1 else ("says", "it")
    if given and "main_llm" in getattr(load("agl.algorithms", name), "serves", ()):
        raise ConfigError(
            f"{' and '.join(given)} {say} which model the agent calls, and the algorithm `{name}` trains and serves its own; leave {them} out: "
            f"the model that is trained is an option of the algorithm (`--set {short}.OPTION=VALUE`)"
        )


def _algorithm(name: str, settings: tuple[str, ...]) -> Any:
    from agl.registry import load
    from agl.settings import read_settings

    short = name.rpartition(":")[2]
    options, told = dict(read_settings().algorithms.get(short, {})), dict[str, str]()
    for setting in settings:
        path, equals, value = setting.partition("=")
        owner, _, option = path.partition(".")
        if not equals or owner != short or not option:
            raise ConfigError(f"`--set` takes {short}.OPTION=VALUE, given was `{setting}`")
        if option in told:
            raise ConfigError(f"`--set {short}.{option}` is given twice, as `{told[option]}` and as `{value}`; give one of them")
        told[option] = value
        options[option] = _value(value)
    return load("agl.algorithms", name)(**options)


def _resources(options: dict[str, Any]) -> dict[str, Any]:
    """What the agent begins with: its model, and prompts out of files."""
    from agl.resources import LLM, PromptTemplate

    endpoint, model = options["endpoint"], options["model"]
    if (endpoint is None) != (model is None):
        raise click.UsageError("--endpoint and --model go together: the URL, and the model's name there")
    found: dict[str, Any] = {}
    if endpoint is not None:
        found["main_llm"] = LLM(endpoint=endpoint, model=model, api_key=os.environ.get("OPENAI_API_KEY"))
    for given in options["prompts"]:
        name, equals, file = given.partition("=")
        if not equals or not name:
            raise ConfigError(f"`--prompt` takes NAME=FILE, such as prompt_template=ask.txt, given was `{given}`")
        if name in found:
            raise ConfigError(f"`--prompt {given}`: there is a resource `{name}` already; give each a name of its own")
        try:
            found[name] = PromptTemplate(template=Path(file).read_text(encoding="utf-8").rstrip("\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"`--prompt {given}`: `{file}` cannot be read: {error}") from error
    return found


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {"None": None, "True": True, "False": False}.get(text, text)


def _agent(spec: str | None, options: dict[str, Any]) -> Any:
    from agl.agents import AgentSpec
    from agl.programs import command

    functions = {"input": options.get("input_"), "reward": options.get("reward")}
    given = {name: _import(function) for name, function in functions.items() if function}
    if spec is None:
        return command(str(options["command"]), **given)
    if options.get("command"):
        raise click.UsageError(f"AGENT (`{spec}`) and --agent (`{options['command']}`) are two agents; give one of them")
    found = _import(spec)
    if not isinstance(found, AgentSpec):
        return AgentSpec(found, **given) if given else found
    own = {name: getattr(found, name) for name in ("input", "output", "reward")}
    if twice := [f"--{name}" for name in given if own[name] is not None]:
        raise ConfigError(f"`{spec}` is an `agl.agent(…)` that has its own {' and '.join(twice)[2:]}; leave {' and '.join(twice)} out")
    return AgentSpec(found.agent, name=found.name, **{**own, **given})


def _import(spec: str) -> Any:
    import importlib

    module, colon, name = spec.partition(":")
    if not colon:
        raise ConfigError(f"`{spec}` must be `module:object`, such as `my_app:graph`")
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"`{spec}` cannot be imported from {os.getcwd()}: {type(error).__name__}: {error}") from error
    return value


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """Tasks of a file: JSON lines, a JSON array, or Parquet (needs pandas).

    Raises:
        ConfigError: no such file, another kind of file, or one that cannot be read.
    """
    import msgspec

    if not path.exists():
        raise ConfigError(f"there is no file `{path}`")
    try:
        if path.suffix == ".jsonl":
            return [msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line.strip()]
        if path.suffix == ".json":
            return msgspec.json.decode(path.read_bytes())
        if path.suffix == ".parquet":
            import importlib

            return importlib.import_module("pandas").read_parquet(path).to_dict("records")
    except msgspec.DecodeError as error:
        raise ConfigError(f"`{path}` cannot be read: {error}") from error
    except ImportError as error:
        raise ConfigError(f"reading `{path}` needs pandas and pyarrow: pip install pandas pyarrow") from error
    raise ConfigError(f"`{path}` must be .jsonl, .json or .parquet")
