"""A casting node's UDP port, for programs without Ray: what comes in goes to the inbox.

It listens on the node's own address and on the broadcast addresses of that network, and answers
nobody. What the inbox has no room for is counted there, and so is what nests too deeply: a reader
would have to follow it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import selectors
import socket
import struct
import threading
import traceback
import uuid
from typing import Any

from castrayd.driver.caster.inbox import Inbox

__all__ = ("UdpPort",)

_SIOCGIFADDR, _SIOCGIFBRDADDR = 0x8915, 0x8919
MAX_DATAGRAM = 65_535
MAX_DEPTH = 100
"""Of lists and objects within each other, as in a cast of the daemon."""


class UdpPort:
    """Bound when made; raises OSError where it cannot be. Its thread ends with the process."""

    def __init__(self, address: str, port: int, inbox: Inbox) -> None:
        self._inbox = inbox
        self._socket = _bound(address, port)
        self.port = int(self._socket.getsockname()[1])
        self._sockets = [self._socket]
        for broadcast in (_broadcast_of(address), "255.255.255.255"):
            try:
                self._sockets.append(_bound(broadcast, self.port))
            except OSError:
                continue  # IPv6, or a network without broadcasts
        threading.Thread(target=self._listen, name="udp", daemon=True).start()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in self._sockets:
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    try:
                        self._take(key.fileobj)
                    except Exception:  # noqa: BLE001  one bad datagram, or disk, ends no port
                        traceback.print_exc()

    def _take(self, one: Any) -> None:
        data, peer = one.recvfrom(MAX_DATAGRAM)
        sender = f"udp:{peer[0]}:{peer[1]}"
        try:
            body = json.dumps(_read(data))
        except RecursionError:
            self._inbox.refuse()
        else:
            self._inbox.accept([(uuid.uuid4().hex, sender, body)])

    def send(self, host: str, port: int, data: bytes) -> None:
        """Hand a datagram to the network, from this port; to a broadcast address too."""
        self._socket.sendto(data, (host, port))


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_DGRAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        one.bind((address, port))
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one


def _broadcast_of(address: str) -> str:
    """Find the broadcast address of the network that an IPv4 address is on; raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                own = fcntl.ioctl(one, _SIOCGIFADDR, request)[20:24]
                if socket.inet_ntoa(own) == address:
                    return socket.inet_ntoa(fcntl.ioctl(one, _SIOCGIFBRDADDR, request)[20:24])
            except OSError:
                continue
    message = f"no interface has {address}"
    raise OSError(message)


def _read(data: bytes) -> Any:
    """Return what a datagram says: JSON where it is that, else text, else its bytes.

    Raises RecursionError for what nests too deeply.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if _is_deep(value, MAX_DEPTH):
        raise RecursionError
    return value


def _is_deep(value: Any, left: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (left < 1 or any(_is_deep(one, left - 1) for one in value))
