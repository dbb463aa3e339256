"""``python -m cutover`` is the command line."""

from cutover.cli.app import app


def main() -> None:
    """The command, with the words of this process."""
    app(prog_name="cutover")


if __name__ == "__main__":
    main()
