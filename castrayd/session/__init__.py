"""The daemon's side of a session: spawn, wire, deadlines, kill. Never imports ray nor `driver`."""
