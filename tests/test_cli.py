"""The command line as such: help, exit codes, messages, start-up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from helpers import run

from clconv.cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: main {name}" in result.output
    assert "Default: CLCONV_DEVICE" in " ".join(result.output.split()) or name == "devices"


def test_the_list_says_what_the_commands_say() -> None:
    context = click.Context(main)
    for name, text in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None and command.help is not None
        first = command.help.split("\n\n")[0].split("\n")[0]
        assert first.split()[0] == text.split()[0], f"{name}: {first!r} but the list says {text!r}"


def test_the_list_of_commands_loads_none_of_them() -> None:
    script = "import sys, clconv.cli; clconv.cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {f"clconv.cli.{name}" for name in COMMANDS} & set(done.stdout.split())


def test_version() -> None:
    assert run("--version").output.startswith("clconv ")


def test_a_misspelt_command_is_recognised() -> None:
    result = run("trian")
    assert result.exit_code == 2
    assert "there is no command 'trian'; did you mean train?" in result.output


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("resnet16", "did you mean resnet18?"),
        ("zoo:vgg", "no network of the zoo"),
        ("none.safetensors", "none.safetensors: there is no such file"),
        ("INPUT 8x8x3 -> CONF 3x3x3", "there is no layer CONF"),
        ("INPUT 8x8x3 -> CONV 3x3x8/2 p0", "character 16"),
    ],
)
def test_what_is_no_network_is_refused(network: str, message: str) -> None:
    result = run("summary", network)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_wrong_pattern_is_pointed_at() -> None:
    lines = run("summary", "INPUT 8x8x3 -> CONF 3x3x3").output.splitlines()
    assert lines[-1].index("^") == lines[-2].index("CONF")


def test_a_wrong_device_is_refused() -> None:
    result = run("summary", "lenet", "--device", "abacus")
    assert result.exit_code == 2
    assert "no device is called 'abacus'; there are:" in result.output


def test_a_wrong_amount_is_a_usage_error() -> None:
    result = run("summary", "lenet", "--memory", "much")
    assert result.exit_code == 2
    assert "'much' is no amount; 64MB" in result.output


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("summary", "INPUT 8x8x1 -> FC 2", "--plot", str(tmp_path / "none" / "p.png"))
    assert result.exit_code == 2
    assert f"{tmp_path / 'none' / 'p.png'}: cannot be written: No such file or directory" in result.output


def test_summary_shows_layers_and_budget() -> None:
    result = run("summary", "lenet", "--batch", "2", "--mode", "test", "--memory", "100MB")
    assert result.exit_code == 0
    assert "conv2" in result.output and "fits" in result.output
    result = run("summary", "lenet", "--memory", "1KB")
    assert result.exit_code == 2 and "Nothing was allocated" in result.output


def test_summary_as_json() -> None:
    content = json.loads(run("summary", "lenet", "--json").stdout)
    assert content["parameters"] == 11_274
    assert [total["mode"] for total in content["totals"]] == ["test", "train"]


def test_python_m_and_a_broken_pipe() -> None:
    command = f"{sys.executable} -m clconv summary lenet | head -c 10"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=root)
    assert done.stdout == "device " + done.stdout[7:]
    assert done.stderr == ""


def test_devices_lists_what_works() -> None:
    result = run("devices")
    assert result.exit_code == 0
    assert "Used: " in result.output


def in_a_process(prepare: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in which something is prepared first."""
    lines = [
        "import signal, sys",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",  # it may be ignored here
        prepare,
        "from clconv.__main__ import run",
        f"sys.argv[1:] = {list(arguments)!r}",
        "run()",
    ]
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)


def test_ctrl_c_while_modules_are_imported_ends_with_its_code() -> None:
    finder = (
        "class Finder:\n    def find_spec(name, *_):\n        if name == 'click':\n            raise KeyboardInterrupt"
    )
    done = in_a_process(f"{finder}\nsys.meta_path.insert(0, Finder)", "--version")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.skipif(sys.platform != "linux", reason="on_exit is glibc's")
def test_ctrl_c_while_drivers_unload_does_not_change_the_exit_code() -> None:
    # on_exit calls raise(exit code, ...), and the exit code of what is refused is the number of SIGINT.
    call = "libc.on_exit(ctypes.cast(getattr(libc, 'raise'), ctypes.c_void_p), None)"
    prepare = f"import ctypes\nlibc = ctypes.CDLL(None)\n{call}"
    done = in_a_process(prepare, "trian")
    assert done.returncode == signal.SIGINT == 2 and "did you mean train?" in done.stderr
