"""The command line: `minialbert COMMAND`, or `python -m minialbert COMMAND`.

Results go to stdout, progress and warnings to stderr. Exit 0: done; 1: could not be done (one line `error: ...`, a
traceback only with --debug); 2: usage. The other files here have the commands, a function each.
"""

import argparse
import os
import signal
import sys
import threading
import warnings

from minialbert.cli import ask, files, health, hub, learn, look, models, probe, proof, speed, texts, tune, vectors
from minialbert.errors import MiniAlbertError, nearest
from minialbert.version import VERSION


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = _Parser(prog="minialbert", description="ALBERT and BERT: text to vectors, and a look inside.")
    top.add_argument("--version", action="version", version=f"minialbert {VERSION}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Command)
    for module in (texts, ask, models, look, probe, files, proof, hub, learn, tune, vectors, health, speed):
        module.add_commands(commands)
    for command in commands.choices.values():
        command.formatter_class = _Help
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message):
        self.exit(2, f"error: {message} (usage: {self.prog} --help)\n")


class _Command(_Parser):
    """Takes texts and files before, between and after options, where argparse alone reads them in one place only;
    and of an option that is not there it says what was probably meant.
    """

    inside = False

    def parse_known_args(self, args=None, namespace=None):
        if self.inside:
            return super().parse_known_args(args, namespace)
        self.inside = True  # what follows comes back here
        try:
            given, rest = self.parse_known_intermixed_args(args, namespace)
        finally:
            self.inside = False
        if rest:
            near = nearest(rest[0].partition("=")[0], self._option_string_actions) if rest[0].startswith("-") else ""
            self.error(f"unrecognized: {' '.join(rest)}" + (f". Nearest: {near}" if near else ""))
        return given, rest


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that tells the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.default in (None, False, argparse.SUPPRESS) or "default" in (action.help or "")
        return f"{action.help or ''}" + ("" if told else " (default: %(default)s)")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    before = None
    if threading.current_thread() is threading.main_thread():  # SIGTERM ends a run as an error would: tidily
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return given.run(given) or 0
    except BrokenPipeError:  # the reader of our output has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        say(str(stop) or "stopped")
        return 128 + getattr(stop, "number", signal.SIGINT)
    except (MiniAlbertError, OSError, MemoryError) as error:
        if given.debug:
            raise
        say(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return 1
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
