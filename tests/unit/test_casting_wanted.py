"""Where a casting node belongs: on a cluster that it knows, and on one that is new."""

import pytest

from castrayd.casting.wanted import WantedNode, Where, choose
from castrayd.core.cluster import Node


def _node(node_id: str, host: str, *, alive: bool = True, **more: object) -> Node:
    return Node(node_id, alive, f"10.0.0.{host[-1]}", host, 1, head=host == "h1", **more)  # type: ignore[arg-type]


NODES = [_node("n1", "h1"), _node("n2", "h2", labels={"gpu": "1"}), _node("n3", "h3")]
PLACED = WantedNode("a", cluster_id="c1", node_id="n2", address="10.0.0.2", hostname="h2")


@pytest.mark.parametrize(
    ("where", "node_id"),
    [
        (Where(), "n3"),
        (Where(hostname="h1"), "n1"),
        (Where(address="10.0.0.2"), "n2"),
        (Where(labels={"gpu": "1"}), "n2"),
        (Where(node_id="n1"), "n1"),
        (Where(spread=4), "n2"),
    ],
)
def test_new_one_goes_where_it_is_wanted(where: Where, node_id: str) -> None:
    """Nothing said means this daemon's own host."""
    found = choose(WantedNode("a", where), NODES, own="n3", cluster="c1")

    assert isinstance(found, Node)
    assert found.node_id == node_id


def test_without_a_host_of_its_own_the_head_is_taken() -> None:
    """By Ray Client the daemon has no Ray node."""
    found = choose(WantedNode("a"), NODES, own=None, cluster=None)

    assert isinstance(found, Node)
    assert found.hostname == "h1"


def test_place_that_is_not_there_is_named() -> None:
    """Nowhere else is as good."""
    assert choose(WantedNode("a", Where(hostname="h9")), NODES, own="n1", cluster="c") == (
        "no living node is such a place"
    )
    assert choose(WantedNode("a"), [], own="n1", cluster="c") == "no node is alive"


def test_placed_one_stays_while_its_node_lives() -> None:
    """Whatever it was asked for by."""
    found = choose(PLACED, NODES, own="n1", cluster="c1")

    assert isinstance(found, Node)
    assert found.node_id == "n2"


@pytest.mark.parametrize("cluster", ["c1", "c2"])
def test_it_follows_its_host(cluster: str) -> None:
    """A raylet that was started anew, and a new cluster, have other ids for the same host."""
    nodes = [_node("n2", "h2", alive=False), _node("m2", "h2"), _node("m1", "h1")]
    found = choose(PLACED, nodes, own="m1", cluster=cluster)

    assert isinstance(found, Node)
    assert found.node_id == "m2"


def test_host_whose_address_has_changed_is_known_by_its_name() -> None:
    """An address comes and goes, a host stays."""
    moved = Node("m2", alive=True, address="10.9.9.9", hostname="h2", port=1, head=False)
    found = choose(PLACED, [moved], own=None, cluster="c2")

    assert found is moved


def test_host_that_is_gone_is_waited_for() -> None:
    """Another host would be another node under the same name."""
    found = choose(PLACED, [_node("n1", "h1")], own="n1", cluster="c1")

    assert found == "no living node is h2 (10.0.0.2)"


def test_spread_ones_go_elsewhere() -> None:
    """A demonstration needs the number, not the host."""
    spread = WantedNode("a", Where(spread=0), cluster_id="c1", node_id="gone", hostname="x")

    assert isinstance(choose(spread, NODES, own=None, cluster="c1"), Node)
