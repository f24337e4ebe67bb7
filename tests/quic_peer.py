#!/usr/bin/env python3
"""A QUIC client on aioquic, written from docs/protocol.md alone: logs in, joins, waits for a chat, beats, logs out.

    python3 tests/quic_peer.py HOST PORT CA_FILE APPID USERID TOKEN ROOM

Prints a line for each step, and exits 0 when each answer is what the page says, 1 when one is not. It shares no code with the Rust crates:
aioquic has a QUIC and a TLS of its own.
"""

import asyncio
import json
import struct
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated

JSON = 18673
LOGIN, LOGOUT, BIZ, HEARTBEAT, JOIN = 1001, 1002, 1003, 1004, 1007
ANSWER_SECONDS = 20


class Wrong(Exception):
    """The server did not do what docs/protocol.md says."""


def expect(holds, what):
    if not holds:
        raise Wrong(what)


class Peer(QuicConnectionProtocol):
    """Keeps how the connection ended."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ended = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated) and not self.ended.done():
            self.ended.set_result((event.error_code, event.reason_phrase))
        super().quic_event_received(event)


async def read_frame(reader):
    magic, code, length = struct.unpack(">Hii", await reader.readexactly(10))
    expect(magic == JSON, f"magic {magic}")
    return code, json.loads(await reader.readexactly(length) or b"{}")


async def within(answer, what):
    try:
        return await asyncio.wait_for(answer, ANSWER_SECONDS)
    except asyncio.TimeoutError as error:
        raise Wrong(f"no {what} in {ANSWER_SECONDS} s") from error


async def run(host, port, authority, app, user, token, room):
    pushes = asyncio.Queue()

    async def read_pushes(reader):
        (of_class,) = await reader.readexactly(1)
        try:
            while True:
                await pushes.put((of_class, await read_frame(reader)))
        except asyncio.IncompleteReadError as end:
            expect(not end.partial, "a stream ends between frames")

    tasks = []
    # A datagram of theirs and a frame of ours have nothing in common: the first frame is sent in pieces.
    settings = QuicConfiguration(is_client=True, alpn_protocols=["billfish/1"], server_name="localhost", cafile=authority)
    handler = lambda reader, _: tasks.append(asyncio.ensure_future(read_pushes(reader)))
    async with connect(host, port, configuration=settings, create_protocol=Peer, stream_handler=handler) as peer:
        reader, writer = await peer.create_stream()

        def send(code, **body):
            raw = json.dumps(body).encode() if body else b""
            frame = struct.pack(">Hii", JSON, code, len(raw)) + raw
            for piece in (frame[:7], frame[7:]):
                writer.write(piece)

        async def answer(code):
            got, body = await within(read_frame(reader), f"answer {code}")
            expect(got == code, f"{got} {body} instead of {code}")
            return body

        send(LOGIN, appId=app, userId=user, token=token, platform="android")
        expect((await answer(LOGIN))["data"] == "true", "LOGIN says true")
        send(JOIN, roomId=room)
        expect((await answer(JOIN))["roomId"] == room, "JOIN names its room")
        print("joined", flush=True)
        # How many are in the room is told when it changes and every now and then, on a stream of its own.
        while (push := await within(pushes.get(), "push"))[1][1].get("key") == "audience":
            pass
        of_class, (code, body) = push
        expect(code == BIZ and of_class == body["class"] == 2, f"chat comes on the stream of its class: {of_class} {code} {body}")
        print("pushed", json.loads(body["data"])["content"], flush=True)
        send(HEARTBEAT)
        expect((await answer(HEARTBEAT))["data"] == "true", "HEARTBEAT says true")
        send(LOGOUT)
        await answer(LOGOUT)
        expect(await within(reader.read(), "end of the stream") == b"", "nothing comes behind LOGOUT")
        code, phrase = await within(asyncio.shield(peer.ended), "end of the connection")
        expect((code, phrase) == (0, "logged_out"), f"the connection ends with {code} {phrase}")
        print("ended", flush=True)
    for task in tasks:
        await within(task, "end of the streams of pushes")


def main():
    if len(sys.argv) != 8:
        print(__doc__, file=sys.stderr)
        return 2
    host, port, authority, app, user, token, room = sys.argv[1:]
    try:
        asyncio.run(run(host, int(port), authority, int(app), int(user), token, int(room)))
    except Wrong as wrong:
        print(f"wrong: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
