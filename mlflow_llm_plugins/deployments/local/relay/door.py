"""Where clients come in: public addresses, each with a relay behind it."""

from __future__ import annotations

import asyncio
import errno

from mlflow_llm_plugins.deployments.local.relay.listener import try_to_bind
from mlflow_llm_plugins.deployments.local.relay.relay import Relay
from mlflow_llm_plugins.errors import InvalidInputError


class AddressError(InvalidInputError):
    """An address that cannot be listened on; the message says why and what to do."""

    def __init__(self, host: str, port: int | None, error: OSError) -> None:
        """Of what the system said."""
        self.is_taken = error.errno == errno.EADDRINUSE
        if self.is_taken:
            text = f"port {port} on {host} is taken by another program. Give another one, or none."
        else:
            words = (error.strerror or str(error)).partition(" (")[0]  # then Python goes on about the address
            what = f"host {host}" if port is None else f"port {port} on {host}"
            text = f"{what} cannot be listened on: {words}. Give another one."
        super().__init__(text)


def check_bindable(host: str, port: int | None) -> None:
    """Refuse an address on which nobody could listen now, before a model is downloaded for it.

    Raises:
        AddressError: Another program is there, or the system does not allow it.
    """
    try:
        try_to_bind(host, port)
    except UnicodeError as error:
        raise AddressError(host, port, OSError("it cannot be the name of a host")) from error
    except OSError as error:
        raise AddressError(host, port, error) from error


class Door:
    """One public address."""

    def __init__(self, host: str, port: int | None, connection_s: float) -> None:
        """Still shut.

        Args:
            host: Address to listen on.
            port: None: a free one, which is then kept.
            connection_s: Seconds that a new connection waits for a server.
        """
        self.host = host
        self.port = port
        self.relay = Relay(connection_s)
        self.is_open = False

    async def open(self) -> None:
        """Let clients in; they wait where no server is behind yet.

        Raises:
            AddressError: Another program is there, or the system does not allow it.
        """
        try:
            self.port = await self.relay.listen(self.host, self.port)
        except OSError as error:
            raise AddressError(self.host, self.port, error) from error
        self.is_open = True

    async def shut(self) -> None:
        """Let nobody in any more; those who are in stay."""
        self.is_open = False
        await self.relay.stop_listening()


class Doors:
    """All that may be open: one, but for an update to another address."""

    def __init__(self, connection_s: float) -> None:
        """None yet; the seconds are those of `Door`."""
        self._connection_s = connection_s
        self._doors: list[Door] = []

    def add(self, host: str, port: int | None) -> Door:
        """One more, still shut."""
        door = Door(host, port, self._connection_s)
        self._doors.append(door)
        return door

    async def close(self, door: Door) -> None:
        """Send away who came in by it, and forget it."""
        await door.shut()
        await door.relay.close()
        self._doors.remove(door)

    async def shut_all(self) -> None:
        """Let nobody in any more."""
        await asyncio.gather(*(door.shut() for door in self._doors))

    async def close_all(self) -> None:
        """Send everybody away."""
        await asyncio.gather(*(self.close(door) for door in list(self._doors)))
