"""`clconv` and `python -m clconv`: the command line."""

from __future__ import annotations

import atexit
import signal
import sys


def run() -> None:
    """Runs the command in `sys.argv` and ends the process with its exit code, 130 after Ctrl-C whenever that comes.

    Drivers take a while to unload, by when Python has let go of its signals: a Ctrl-C then, the second of an impatient
    user or one just behind the end, would kill a process that has said all and knows its exit code. So it is ignored
    from the end of Python's own part on.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # What is registered first is called last.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        from .cli import main

        main(prog_name="clconv")
    except KeyboardInterrupt:  # while modules are imported, before a command could answer
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
