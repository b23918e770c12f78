"""A host table of a daemon's own, which may be written anew while it runs. Needs root."""

from tests.support.daemon import Daemon

__all__ = ("launch_with_hosts", "write_hosts")


def write_hosts(daemon: Daemon, *lines: str) -> None:
    """Say which names there are; the next lookup obeys."""
    (daemon.folder / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")


def launch_with_hosts(daemon: Daemon, *lines: str) -> None:
    """Start the daemon in a mount namespace of its own, where /etc/hosts is its own file."""
    write_hosts(daemon, *lines)
    script = f'mount --bind {daemon.folder}/hosts /etc/hosts; exec "$@"'
    daemon.launch("unshare", "--mount", "sh", "-c", script, "init")
