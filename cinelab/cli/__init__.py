"""The command line: `cinelab --help`."""


def main() -> None:
    """Run the command that the process was started with."""
    from cinelab.cli import commands  # late, so that importing the package takes no time

    commands.run_command()
