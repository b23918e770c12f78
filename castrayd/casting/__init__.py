"""Casting nodes, messages and files, over whatever session is attached."""
