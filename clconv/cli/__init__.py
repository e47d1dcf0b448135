"""The command line: one module per command, loaded when it is called.

main        the group of commands, the entry point of `clconv`
options     options that several commands have
display     consoles, progress, tables
networks    from what a user names to a network
memory      device memory, planned beside measured
picture     the picture that the demo draws
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click

from .. import settings
from ..errors import ClconvError

COMMANDS = {
    "devices": "List the OpenCL devices: what is there, what works, what would be chosen.",
    "demo": "Train on handwritten digits, here and now, and show what it took.",
    "train": "Train a network on a folder of images, MNIST's or CIFAR-10's files.",
    "predict": "Say what is on pictures, with a trained network.",
    "summary": "Show a network layer by layer, with the memory that it takes.",
    "fit-check": "Say which batches and images fit into a budget.",
    "bench": "Measure a network layer by layer, beside what the device can do.",
    "tune": "Search the fastest way to run a network on this device.",
    "selftest": "Check every layer against its reference on this device.",
}

HELP = """Trains and runs convolutional networks on any OpenCL device, inside the memory you have.

\b
Begin with
    clconv devices                      what this machine has
    clconv demo                         a first network, in a minute
    clconv train DATA --net PATTERN     your own
    clconv predict MODEL IMAGE...       what it makes of your pictures

Each command explains itself: clconv train --help. The device is chosen by --device or CLCONV_DEVICE.
"""


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Failure(click.ClickException):
    """An error that the user can do something about: one message, no traceback."""

    exit_code = 2


class Commands(click.Group):
    """Loads a command's module when the command is called, and turns errors into messages.

    Exit codes: 0 done; 1 done, but something was found wrong; 2 refused, with the reason; 130 Ctrl-C.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            close = difflib.get_close_matches(cmd_name, COMMANDS, 1)
            ctx.fail(f"there is no command {cmd_name!r}" + (f"; did you mean {close[0]}?" if close else ""))
        module = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f".{module}", __name__), module)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClconvError as error:
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"clconv {settings.version()}")
        ctx.exit()


@click.group(cls=Commands, help=HELP, context_settings=SETTINGS)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def main() -> None:
    """See HELP."""
