"""`castrayd`: run the daemon, check its settings. Parses arguments and nothing else."""

import os
import sys
from pathlib import Path
from typing import Any, Final

import click

import castrayd

__all__ = ("main",)

EXIT_CONFIG: Final = 78

_CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="CASTRAYD_CONFIG",
    help="Settings file (TOML).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(castrayd.__version__)
def main() -> None:
    """Keep this host attached to a Ray cluster that it does not own."""
    if sys.platform != "linux":
        click.echo(f"castrayd runs on Linux alone, this is {sys.platform}", err=True)
        raise SystemExit(EXIT_CONFIG)


@main.command()
@_CONFIG
@click.option("--instance", metavar="NAME", help="One of several daemons on this host.")
@click.option("--address", metavar="HOST:PORT", help="The cluster; wins over RAY_ADDRESS.")
@click.option("--namespace", help="Ray namespace.")
@click.option("--socket", metavar="PATH", help="Control socket.")
@click.option("--state-dir", metavar="DIR", help="Folder for what lasts.")
@click.option("--allow-local-start", is_flag=True, default=None, help="Start a cluster if none.")
@click.option(
    "--allow-local-fallback", is_flag=True, default=None, help="Also when it stays unreachable."
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]))
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def run(config: Path | None, instance: str | None, address: str | None, **given: Any) -> None:  # noqa: ANN401
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads the settings."""
    from castrayd import daemon  # noqa: PLC0415  so that help is quick

    overrides = {_KEYS[name]: value for name, value in given.items() if value is not None}
    request = daemon.RunRequest(config, instance, overrides, address, dict(os.environ))
    raise SystemExit(daemon.run(request))


_KEYS: Final = {
    "namespace": "ray.namespace",
    "socket": "control.socket",
    "state_dir": "daemon.state_dir",
    "allow_local_start": "ray.allow_local_start",
    "allow_local_fallback": "ray.allow_local_fallback",
    "log_format": "log.format",
    "log_level": "log.level",
}


@main.command("check-config")
@_CONFIG
def check_config(config: Path | None) -> None:
    """Check the settings as `run` would read them; names every problem."""
    from castrayd.errors import SettingsError  # noqa: PLC0415
    from castrayd.settings import load  # noqa: PLC0415

    try:
        _, warnings = load(config, os.environ, {})
    except SettingsError as error:
        click.echo(str(error), err=True)
        raise SystemExit(EXIT_CONFIG) from None
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("ok")
