"""The casting node's actor without Ray: which of its methods wait for what, and what it begins."""

from castrayd.driver.caster.actor import GROUPS, METHODS, Caster


def test_what_may_hang_keeps_no_thread_of_what_is_asked_all_the_time() -> None:
    """A listing on a dead mount must not make its node look lost."""
    grouped = [name for names in METHODS.values() for name in names]
    public = {name for name in vars(Caster) if not name.startswith("_")}
    assert (set(grouped), len(grouped)) == (public, len(public))
    assert set(METHODS) == set(GROUPS)
    assert set(METHODS["control"]) == {"describe", "send", "sending", "cancel_sending"}
