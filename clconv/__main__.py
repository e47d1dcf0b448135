"""`python -m clconv`: the command line."""

from .cli import main

main(prog_name="clconv")
