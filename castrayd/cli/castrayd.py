"""`castrayd`: run the daemon, check its settings. Parses arguments and nothing else.

The entry point, also of `python -m castrayd`. The daemon itself is imported only by `run`.
"""

import faulthandler
import gc
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import click

import castrayd
from castrayd.cli.late import LateGroup

__all__ = ("main",)

EXIT_INTERNAL: Final = 70
EXIT_CONFIG: Final = 78


@contextmanager
def _usage_is_configuration() -> Iterator[None]:
    """Give a bad argument the exit code of a bad file: a restart mends neither."""
    try:
        yield
    except click.UsageError as error:
        error.exit_code = EXIT_CONFIG  # type: ignore[misc]  # click reads it off the instance
        raise


class _Commands(LateGroup):
    """A group whose usage errors are bad configuration."""

    LATE: ClassVar[Mapping[str, str]] = {"install-units": "install"}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _usage_is_configuration():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  click's own
        with _usage_is_configuration():
            return super().invoke(ctx)


_CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="CASTRAYD_CONFIG",
    help="Settings file (TOML).",
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(castrayd.__version__)
def main() -> None:
    """Keep this host attached to a Ray cluster that it does not own."""
    if sys.platform != "linux":
        click.echo(f"castrayd: runs on Linux alone, this is {sys.platform}", err=True)
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
    "--allow-local-fallback", is_flag=True, default=None, help="Start one also if out of reach."
)
@click.option(
    "--demo-nodes",
    type=click.IntRange(0, 1000),
    default=0,
    metavar="N",
    help="Want demo_node_1 to demo_node_N, spread over the cluster.",
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json", "journald"]))
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def run(
    config: Path | None,
    instance: str | None,
    address: str | None,
    demo_nodes: int,
    **given: Any,  # noqa: ANN401
) -> None:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads the settings.

    Exit codes: 0 stopped, 70 a bug, 73 another one runs already, 74 a full disk or the like, 78
    bad configuration.
    """
    faulthandler.enable()  # what a watchdog ends says where it hung
    gc.disable()  # an import makes no garbage: to look for it costs a tenth of the start
    from castrayd import daemon  # noqa: PLC0415  so that help is quick

    gc.freeze()
    gc.enable()
    _check_address(address)
    overrides = {_KEYS[name]: value for name, value in given.items() if value is not None}
    request = daemon.RunRequest(config, instance, overrides, address, demo_nodes, dict(os.environ))
    try:
        code = daemon.run(request)
    except Exception:  # noqa: BLE001  the last place: whatever it is, it is a bug
        traceback.print_exc()
        code = EXIT_INTERNAL
    raise SystemExit(code)


_KEYS: Final = {
    "namespace": "ray.namespace",
    "socket": "control.socket",
    "state_dir": "daemon.state_dir",
    "allow_local_start": "ray.allow_local_start",
    "allow_local_fallback": "ray.allow_local_fallback",
    "log_format": "log.format",
    "log_level": "log.level",
}


def _check_address(address: str | None) -> None:
    """Refuse a bad argument at once; a bad RAY_ADDRESS may be mended while the daemon runs."""
    from castrayd.core.candidates import AUTO, parse_address  # noqa: PLC0415
    from castrayd.errors import AttachError  # noqa: PLC0415

    if address is None or address == AUTO:
        return
    try:
        parse_address(address)
    except AttachError as error:
        raise click.BadParameter(error.fault.message, param_hint="'--address'") from error


@main.command("check-config")
@_CONFIG
def check_config(config: Path | None) -> None:
    """Check the settings as `run` would read them; names every problem, and then exits 78."""
    from castrayd.errors import SettingsError  # noqa: PLC0415
    from castrayd.request import RunRequest  # noqa: PLC0415

    try:
        _, warnings = RunRequest(config).settings()
    except SettingsError as error:
        click.echo(str(error), err=True)
        raise SystemExit(EXIT_CONFIG) from None
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("ok")
