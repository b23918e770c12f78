"""The pure core: standard library and `castrayd.errors` only; no clock, randomness, I/O, logging."""
