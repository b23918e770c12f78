"""The commands: `castrayd` runs the daemon, `castrayctl` talks to it."""
