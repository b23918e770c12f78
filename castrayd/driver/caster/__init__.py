"""A casting node: an actor that goes to the cluster by value, where castrayd is not installed.

`driver.casting` makes it and asks it. Everything here needs the standard library and ray alone,
and speaks plain data; what goes wrong is returned as `{"error": {"type", "message"}}`.
"""
