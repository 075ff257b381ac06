"""Whether a server could listen at an address, asked before the work that one waits for."""

import os
import socket

from ...errors import OutputError

MOST_NAME = 100
"""Characters of an address that a message shows."""


def check_listens(host: str, port: int) -> None:
    """Raise `OutputError` where no server could listen: before the work that one waits for."""
    try:
        if not host.strip():
            raise ValueError("it is empty")
        for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as tried:
                if os.name == "posix":  # as asyncio does: a port is free whose last server has just ended
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(place)
                tried.listen()
    except (OSError, ValueError) as error:  # also of a name that is none
        raise cannot_listen(host, port, error) from None


def cannot_listen(host: str, port: int, error: Exception) -> OutputError:
    """What to say of an address at which listening has failed."""
    place = f"[{host}]:{port}" if ":" in host else f"{host[:MOST_NAME]}:{port}"
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"cannot listen at {place} ({reason}); choose another port, or an address of this machine")
