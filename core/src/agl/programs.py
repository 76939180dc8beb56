"""Programs: a command line as an agent, in any language; one process for each attempt.

The program is told by its environment and its standard input what to do, and where to send its calls, rewards and spans.
`docs/any-language.md` is the contract.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from agl.agents import AgentAdapter, AgentSpec
from agl.context import ActiveAttempt, current
from agl.environment import OWN_VARIABLES, PROMPTS_VARIABLE, REWARD_URL_VARIABLE, TASK_VARIABLE, environment_of
from agl.errors import ConfigError, ProgramError, RewardError
from agl.processes import Ended, run_process
from agl.resources import Resources
from agl.rewards import FINAL, Reward, make_reward
from agl.rollouts import Rollout
from agl.spans import SpanKind, SpanStatus, new_span_id

LAST_WORDS = 2_000
"""Characters of its error stream that the error of a failed program shows."""
_SHELL = "/bin/sh"
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"\\$`]|\\.)*"|\\.""", re.DOTALL)
_NEEDS_SHELL = re.compile(r"[|&;<>()$`*?\[\]{}\n]|(?:^|\s)[~#!]|^\s*\w+=")
"""What only a shell understands, outside of quotes."""


class Program:
    """A command line with what it runs in. `command` makes one.

    Args:
        given: the command, as `command` takes it.
        environment: variables beside the inherited ones.
        folder: working directory; None for that of the Trainer.

    Raises:
        ConfigError: no command, variables that AGL sets itself, no such folder, or no such program.
    """

    def __init__(self, given: str | Sequence[str], environment: Mapping[str, str], folder: str | Path | None) -> None:
        self.arguments = _arguments(given)
        self.name = given if isinstance(given, str) else shlex.join(given)
        self.environment, self.folder = dict(environment), folder
        taken = sorted(self.environment.keys() & OWN_VARIABLES)
        if taken:
            raise ConfigError(f"`env` of `{self.name}` cannot set {taken}: each attempt has its own values for them")
        if folder is not None and not Path(folder).is_dir():
            raise ConfigError(f"`cwd` of `{self.name}` must be a folder, there is none at `{folder}`")
        self._check_program()

    def _check_program(self) -> None:
        program = self.arguments[0]
        place = Path(self.folder or ".") / program if os.sep in program else program
        if shutil.which(place, path=self.environment.get("PATH")) is None:
            where = f"at `{place}`" if os.sep in program else "on the PATH"
            raise ConfigError(
                f"the program `{program}` of the agent `{self.name}` was not found {where}, or cannot be executed; "
                "install it, or give its full path"
            )


def command(
    command: str | Sequence[str],
    *,
    input: Callable[[dict[str, Any]], Any] | None = None,
    output: Callable[[str], Any] | None = None,
    reward: Callable[..., Any] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    name: str | None = None,
) -> AgentSpec:
    """A program as an agent: any language, one process for each attempt. `docs/any-language.md` says what it is given.

    Args:
        command: `"node agent.mjs"`, split as a shell would; a shell runs it only where it has pipes, variables or the like.
            A list of arguments is taken as it is.
        input: what the program may see of a task: task -> JSON value, on its standard input. Without it the task's `input`
            field is taken; a program that judges itself (no `reward` here, no judges in the Trainer) gets the whole task.
        output: what the program printed -> what `reward` sees.
        reward: `(task, output) -> float`, may be async. Without it, and without judges, the program's last line is the reward,
            unless it has posted one.
        env: variables beside the inherited ones.
        cwd: its working directory.
        name: for reports.

    Raises:
        ConfigError: there is no such program, or an argument that cannot work.
    """
    return AgentSpec(Program(command, env or {}, cwd), input=input, output=output, reward=reward, name=name)


class ProgramAdapter(AgentAdapter):
    """Runs a `Program`."""

    judges_itself = True

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self._program = program

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> str:
        """Run the program on one task; returns what it printed.

        Raises:
            ProgramError: it ended with another exit code than 0, or could not be started.
        """
        attempt = current()
        assert attempt is not None
        folder = attempt.folder()
        (folder / "task.json").write_bytes(msgspec.json.encode(task))
        prompts = {name: template.template for name, template in resources.prompts().items()}
        (folder / "prompts.json").write_bytes(msgspec.json.encode(prompts))
        for name in prompts:
            attempt.claim_prompt(name)
        return await _Execution(self._program, attempt, folder).run()

    def own_reward(self, output: Any) -> Reward | None:
        """The program's last line as the reward; None where it has posted one.

        Raises:
            RewardError: it is none, or not one finite number.
        """
        attempt = current()
        if attempt is not None and any(reward.name == FINAL and reward.role is None for reward in attempt.rewards()):
            return None
        last = str(output).rstrip().rpartition("\n")[2].strip()
        return make_reward(_number(last, self.name), source="agent")


class _Execution:
    """One run of a program, and its span."""

    def __init__(self, program: Program, attempt: ActiveAttempt, folder: Path) -> None:
        self._program, self._attempt, self._folder = program, attempt, folder
        self._span_id, self._started = new_span_id(), time.time()

    async def run(self) -> str:
        try:
            ended = await self._process()
        except BaseException as error:
            self._record(None)
            if isinstance(error, OSError):
                raise ProgramError(f"`{self._program.name}` could not be started: {error}") from error
            raise
        self._record(ended.exit_code)
        if ended.exit_code:
            raise ProgramError(self._why(ended))
        return ended.stdout

    async def _process(self) -> Ended:
        place = self._folder
        self._attempt.sends_otlp = True
        files = {TASK_VARIABLE: place / "task.json", PROMPTS_VARIABLE: place / "prompts.json"}
        return await run_process(
            self._program.arguments,
            environment=environment_of(self._attempt, self._span_id, self._program.environment)
            | {name: str(path) for name, path in files.items()},
            folder=self._program.folder,
            stdin=files[TASK_VARIABLE],
            stdout=place / "stdout.txt",
            stderr=place / "stderr.txt",
        )

    def _record(self, code: int | None) -> None:
        kept = {"stdout": str(self._folder / "stdout.txt"), "stderr": str(self._folder / "stderr.txt")}
        self._attempt.add_span(
            self._attempt.make_span(
                span_id=self._span_id,
                name=f"process {self._program.name}",
                kind=SpanKind.OPERATION,
                started_at=self._started,
                parent_id=self._attempt.root_id,
                status=SpanStatus.OK if code == 0 else SpanStatus.ERROR,
                error=None if code == 0 else _ending(code),
                attributes={"process.command_args": list(self._program.arguments), "process.exit.code": code, "output": kept},
            )
        )

    def _why(self, ended: Ended) -> str:
        words = ended.stderr.strip() or ended.stdout.strip()
        last = f"{words[-LAST_WORDS:]}\n" if words else ""
        return f"{last}`{self._program.name}` {_ending(ended.exit_code)}; what it printed is in {self._folder}"


def _ending(code: int | None) -> str:
    if code is None:
        return "was stopped, or could not be started"
    return f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"


def _arguments(given: Any) -> tuple[str, ...]:
    """The command as a list; one that needs a shell is given to it whole.

    Raises:
        ConfigError: it is empty, has an open quote, or is neither a text nor a list of texts.
    """
    if isinstance(given, str) and _NEEDS_SHELL.search(_QUOTED.sub("", given)):
        return (_SHELL, "-c", given)
    try:
        found: Any = shlex.split(given) if isinstance(given, str) else list(given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a command is a text or a list of texts, given was {given!r}: {error}") from None
    if not found or not all(isinstance(part, str) for part in cast(list[object], found)):
        raise ConfigError(f'a command names a program and its arguments, such as "node agent.mjs"; given was {given!r}')
    return tuple(found)


def _number(line: str, name: str) -> Any:
    """What the last line gives as the reward: a number, or the field `reward` of an object."""
    try:
        value: Any = msgspec.json.decode(line)
    except msgspec.DecodeError:
        value = None
    if isinstance(value, dict):
        value = cast(dict[str, Any], value).get("reward")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise RewardError(
        f'`{name}` gave no reward: its last line was `{line[:100]}`; print a number or {{"reward": 1.0}} there, '
        f"post one to ${REWARD_URL_VARIABLE}, or give `reward=` or judges"
    )
