"""`landcover doctor`: whether this machine is ready."""

import typer

from landcover.cli.console import print_json
from landcover.cli.options import Json


def doctor(json_: Json = False) -> None:
    """Tell versions, GDAL drivers, devices and free memory, and run a small self-test; the exit code is 3 if it fails.

    Example: landcover doctor
    """
    from landcover.inspection import examine_machine

    report = examine_machine()
    if json_:
        print_json(report)
    else:
        for topic, facts in report.items():
            typer.echo(f"{topic}: {facts}" if isinstance(facts, str) else f"{topic}:")
            for key, value in facts.items() if isinstance(facts, dict) else ():
                typer.echo(f"  {key}: {value}")
    if report["self-test"] != "passed":
        raise typer.Exit(3)
