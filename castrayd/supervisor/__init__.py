"""The running attachment: one consumer of events over the pure core, and what performs commands."""
