"""What the tests share: real clusters, awkward peers, a running daemon."""
