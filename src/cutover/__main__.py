"""``python -m cutover`` is the command line."""

from cutover.cli.app import app

app(prog_name="cutover")
