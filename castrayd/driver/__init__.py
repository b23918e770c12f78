"""The session: the child process that holds the Ray driver, and what of it runs on the cluster.

Runs in the interpreter of `session.python`, where castrayd is not installed: needs the standard
library and ray alone, imports nothing of ours from outside this package, and is imported by
nobody. The daemon starts it by `castrayd.session.launch`.
"""
