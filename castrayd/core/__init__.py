"""The pure core: standard library and `castrayd.errors` alone; no clock, randomness, I/O, log."""
