"""castrayd keeps a host attached to a Ray cluster that it does not own."""

__version__ = "0.1.0"
