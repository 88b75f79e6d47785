"""A question to a server on this machine: the status of its answer, never through a proxy, never for long."""

from __future__ import annotations

import asyncio


async def status_of(port: int, path: str, timeout_s: float) -> int | None:
    """The HTTP status of a GET; None: no answer, or none in time."""
    asking = asyncio.create_task(_ask(port, path))
    try:  # not `wait_for`, which before Python 3.12 can swallow a cancellation
        await asyncio.wait({asking}, timeout=timeout_s)
        return asking.result() if asking.done() else None
    finally:
        asking.cancel()


async def _ask(port: int, path: str) -> int | None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        version, _, rest = (await reader.readline()).partition(b" ")
        return int(rest[:3]) if version.startswith(b"HTTP/") else None
    except (OSError, ValueError):
        return None
    finally:
        writer.close()
