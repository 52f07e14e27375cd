"""`dcp-runner` as one program: its list of commands, its help page, and which command a command line asks for."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from dcp_runner.commands import sweep
from dcp_runner.commands.command import Command
from dcp_runner.common.errors import BAD_INPUT, UserError
from dcp_runner.common.suggest import did_you_mean
from dcp_runner.common.version import __version__

COMMANDS = {command.name: command for command in (*sweep.COMMANDS,)}
"""Every command, in the order of the help page."""
RUN = "run"
"""The word for a training run, which may be omitted."""
_PROGRAM = "dcp-runner"
_HELP = """\
usage: dcp-runner [run] [KEY=VALUE ...]
       dcp-runner COMMAND [ARGUMENT ...]

Train a PyTorch model on one or many ranks, with checkpoints that load on any number of ranks.

commands:
{commands}

more help:
  dcp-runner COMMAND --help       arguments of a command
  dcp-runner run --help           config groups, frequently used keys, examples
  dcp-runner run --cfg job        complete configuration of a run
  dcp-runner run --hydra-help     Hydra's own flags"""


def run_command(arguments: Sequence[str]) -> int | None:
    """Run the command that these arguments ask for; its exit code. None: they ask for a training run.

    1. `--help` or `--version` and nothing else: the list of commands, or the version
    2. the first word is a command: run it
    3. the first word is neither a command, nor an override, nor a flag: name the nearest command
    """
    if list(arguments) in (["--help"], ["-h"]):
        print(_help_page())
        return 0
    if list(arguments) == ["--version"]:
        print(f"{_PROGRAM} {__version__}")
        return 0
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        return _run(COMMANDS[first], arguments[1:])
    if first == RUN or not first or "=" in first or first.startswith(("-", "~", "+")):
        return None
    names = [RUN, *COMMANDS]
    near = did_you_mean(first, names) or f"; overrides have the form KEY=VALUE (see {_PROGRAM} --help)"
    print(
        f"{_PROGRAM}: unknown command or override '{first}'; commands: {', '.join(names)}{near}",
        file=sys.stderr,
    )
    return BAD_INPUT


def _run(command: Command, arguments: Sequence[str]) -> int:
    parser = ArgumentParser(prog=f"{_PROGRAM} {command.name}", description=_sentence(command.help))
    command.add_arguments(parser)
    try:
        code = command.run(parser.parse_args(arguments))
        sys.stdout.flush()
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # as in `dcp-runner logs DIR | head`; nothing more can be printed, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _help_page() -> str:
    lines = {RUN: "train (the default: this word may be omitted)"} | {name: COMMANDS[name].help for name in COMMANDS}
    return _HELP.format(commands="\n".join(f"  {name:<10}{text}" for name, text in lines.items()))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
