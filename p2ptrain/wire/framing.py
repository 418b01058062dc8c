"""Protobuf messages on a stream, each with its length before it as libp2p writes it."""

import asyncio
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from p2ptrain.errors import BadMessage

_M = TypeVar("_M", bound=Message)


async def read_message(reader: asyncio.StreamReader, kind: type[_M], max_bytes: int) -> _M:
    """The next message.

    Raises:
        BadMessage: it does not decode or is too long; nothing of it was read then.
        OSError, EOFError: the stream ended or broke.
    """
    size = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 28:
            raise BadMessage("a message whose length has no end")
    if size > max_bytes:
        raise BadMessage(f"a message of {size} bytes; {max_bytes} are the most")
    try:
        return kind.FromString(await reader.readexactly(size))
    except DecodeError as error:
        raise BadMessage(f"{size} bytes that are no {kind.DESCRIPTOR.name}") from error


def write_message(writer: asyncio.StreamWriter, message: Message) -> None:
    """Hand a message to the stream's buffer."""
    data = message.SerializeToString()
    size, prefix = len(data), bytearray()
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    writer.write(bytes(prefix) + data)
