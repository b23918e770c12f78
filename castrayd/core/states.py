"""The words of the attachment: its states, what is desired, what begins an attempt."""

from enum import StrEnum

__all__ = ("Desired", "Mode", "Outcome", "State", "Trigger")


class State(StrEnum):
    """How the attachment stands, as observed."""

    DISCONNECTED = "disconnected"
    DISCOVERING = "discovering"
    CONNECTED = "connected"
    DEGRADED = "degraded"


class Desired(StrEnum):
    """What the operator wants, apart from what is."""

    UP = "up"
    PAUSED = "paused"


class Mode(StrEnum):
    """How a session joins: by this host's raylet, by Ray Client, or a cluster of its own."""

    DRIVER = "driver"
    CLIENT = "client"
    LOCAL = "local"


class Trigger(StrEnum):
    """What began an attempt."""

    START = "start"
    BACKOFF = "backoff"
    MANUAL = "manual"
    CONFIG_RELOAD = "config_reload"
    RESUME = "resume"
    CREDENTIALS_CHANGED = "credentials_changed"
    DISCOVERY = "discovery"
    SESSION_LOST = "session_lost"
    FAILBACK = "failback"
    CLUSTER_RETURNED = "cluster_returned"


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
