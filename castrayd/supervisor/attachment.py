"""The attachment as it is now: session, node map, checks. Lives as long as its session."""

from collections.abc import Callable, Mapping

import anyio

from castrayd.core.cluster import Node
from castrayd.core.health import Check, CheckReport
from castrayd.core.policy import Policy
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.attached import AttachedChecks, Subjects
from castrayd.probe.resolve import Endpoint, endpoint_of
from castrayd.session.session import NodesPush
from castrayd.supervisor.trial import Attached
from castrayd.telemetry.facts import NodesChanged

__all__ = ("Attachment",)


class Attachment:
    """Holds what is known of the cluster, and watches it."""

    def __init__(
        self, attached: Attached, policy: Callable[[], Policy], *, from_standby: bool
    ) -> None:
        self.attached = attached
        self.from_standby = from_standby
        self.session = attached.session
        self.nodes: dict[str, Node] = {node.node_id: node for node in attached.nodes.nodes}
        self.available = attached.nodes.available
        self.alive = 0
        """How many nodes are alive."""
        self.totals: Mapping[str, float] = {}
        """What the living nodes have in sum, by resource."""
        self._policy = policy
        self._count()
        self._checks: AttachedChecks | None = None
        self._report: Callable[[CheckReport], None] | None = None

    async def watch(self, report: Callable[[CheckReport], None]) -> Fault:
        """Report on the checks until the session exits; returns why it did."""
        self._report = report
        report(self._node_report())
        async with anyio.create_task_group() as tasks:
            self._checks = AttachedChecks(self._subjects(), lambda: self._policy().checks)
            tasks.start_soon(self._checks.run, report, name="attached-checks")
            fault = await self.session.wait_exit()
            tasks.cancel_scope.cancel()
        return fault

    def _subjects(self) -> Subjects:
        attached = self.attached
        facts = attached.facts
        local = self.nodes.get(facts.node_id or "")
        raylet = endpoint_of(local.address, local.port) if local and local.port else None
        return Subjects(
            gcs=self._gcs(),
            raylet=raylet,
            cluster_id=facts.cluster_id,
            credentials=attached.connection.credentials(attached.token),
            ping=self.session.ping,
            heartbeat=self.session.heartbeat,
            node_id=facts.node_id,
            mode=attached.address.mode,
        )

    def _gcs(self) -> Endpoint:
        """Watch the endpoint that the attempt reached; in local mode the one that Ray chose."""
        climb = self.attached.climb
        if climb is not None:
            return climb.endpoint
        host, _, port = (self.attached.facts.gcs_address or ":0").rpartition(":")
        return endpoint_of(host.strip("[]"), int(port))

    async def verify(self) -> Fault | None:
        """Ask for the cluster's id until it answers; None when it is the same as before."""
        expected = self.attached.facts.cluster_id
        while True:
            try:
                seen = await self._identity()
            except AttachError:
                await anyio.sleep(_ASK_AGAIN_S)
                continue
            if expected is None or seen is None or seen == expected:
                return None
            message = f"attached to cluster {expected}, but {seen} answers now"
            return Fault.of(ErrorType.CLUSTER_REPLACED, Phase.ATTACHED, message)

    async def _identity(self) -> str | None:
        """By Ray Client there is no id: that the old client still works is all there is to know."""
        if self.attached.address.mode is Mode.CLIENT:
            await self.session.heartbeat(self._policy().checks.timeout_s)
            return None
        return await self._checks.ask_identity() if self._checks else None

    def renew(self) -> None:
        """Judge by settings that have just changed."""
        if self._report is not None:
            self._report(self._node_report())

    def report(self, report: CheckReport) -> None:
        """Take in what somebody else has checked; dropped where nobody watches."""
        if self._report is not None:
            self._report(report)

    def take(self, push: NodesPush) -> NodesChanged | None:
        """Take a push of the node map in; returns what changed, None when nothing did."""
        if push.available is not None:
            self.available = push.available
        joined = [n.node_id for n in push.nodes if n.alive and not self._is_alive(n.node_id)]
        died = [n.node_id for n in push.nodes if not n.alive and self._is_alive(n.node_id)]
        died += [node_id for node_id in push.gone if self._is_alive(node_id)]
        self.nodes.update({node.node_id: node for node in push.nodes})
        for node_id in push.gone:
            self.nodes.pop(node_id, None)
        self._count()
        if self._report is not None and (joined or died):
            self._report(self._node_report())
        alive = self.alive
        changes = NodesChanged(tuple(joined), tuple(died), alive, len(self.nodes) - alive)
        return changes if joined or died else None

    def _is_alive(self, node_id: str) -> bool:
        node = self.nodes.get(node_id)
        return node is not None and node.alive

    def _count(self) -> None:
        """Sum up the map once a change, not once a request: it may hold ten thousand nodes."""
        sums: dict[str, float] = {}
        living = [node for node in self.nodes.values() if node.alive]
        for node in living:
            for name, amount in node.resources.items():
                sums[name] = sums.get(name, 0.0) + amount
        self.alive, self.totals = len(living), sums

    def _node_report(self) -> CheckReport:
        alive, wanted = self.alive, self._policy().min_nodes
        if alive >= wanted:
            return CheckReport(Check.NODES, None)
        message = f"{alive} nodes are alive, {wanted} are wanted"
        fault = Fault.of(ErrorType.NODES_BELOW_MINIMUM, Phase.ATTACHED, message)
        return CheckReport(Check.NODES, fault)


_ASK_AGAIN_S = 0.2
