#!/usr/bin/env python3
"""A foreign peer: Python's `websockets` and `ssl` against a running gateway. Knows docs/protocol.md and nothing of the house.

usage: websocket_peer.py HOST TCP WS TLS CERTIFICATE ROOM USER TOKEN [USER TOKEN]...
"""
import asyncio
import json
import socket
import ssl
import struct
import sys
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

LOGIN, LOGOUT, BIZ, HEARTBEAT, JOIN, KICK, WS_SHAKE = 1001, 1002, 1003, 1004, 1007, 1006, 1000
JSON = 18673


def envelope(code, body):
    text = json.dumps(body)
    return json.dumps({"magic": JSON, "code": code, "len": len(text.encode()), "body": text})


def frame(code, body):
    raw = json.dumps(body).encode()
    return struct.pack(">Hii", JSON, code, len(raw)) + raw


def read(message):
    if isinstance(message, str):
        outer = json.loads(message)
        assert outer["magic"] == JSON and outer["len"] == len(outer["body"].encode()), outer
        return outer["code"], json.loads(outer["body"] or "{}")
    magic, code, length = struct.unpack(">Hii", message[:10])
    assert magic == JSON and len(message) == 10 + length, message
    return code, json.loads(message[10:] or b"{}")


async def expect(peer, wanted):
    code = BIZ
    # Pushes come at any time.
    while code == BIZ:
        code, body = read(await asyncio.wait_for(peer.recv(), 20))
    assert code == wanted, (code, body, wanted)
    return body


async def talk(url, tls, users, room, write):
    user, token = users.pop()
    async with connect(url + "/ws", ssl=tls) as peer:
        await peer.send(write(LOGIN, {"appId": 10001, "userId": user, "token": token}))
        assert (await expect(peer, LOGIN))["data"] == "true"
        await peer.send(write(JOIN, {"roomId": room}))
        assert (await expect(peer, JOIN))["roomId"] == room
        await asyncio.wait_for(await peer.ping(b"are you there"), 20)
        await peer.send(write(HEARTBEAT, {}))
        await expect(peer, HEARTBEAT)
        # In fragments, as a generator is sent.
        whole = write(HEARTBEAT, {})
        await peer.send([whole[:7], whole[7:9], whole[9:]])
        await expect(peer, HEARTBEAT)
        await peer.send(write(LOGOUT, {}))
        await expect(peer, LOGOUT)
        try:
            await expect(peer, None)
            raise AssertionError("open behind LOGOUT")
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 1000, closed


async def by_path(url, tls, users, room):
    user, token = users.pop()
    path = f"/{urllib.parse.quote(token, safe='')}/{user}/{LOGIN}/{room}"
    async with connect(url + path, ssl=tls) as peer:
        assert (await expect(peer, WS_SHAKE))["data"] == "true"
        assert (await expect(peer, JOIN))["roomId"] == room
        # Closed by the client: the library checks that the same code comes back.
        await peer.close(4321, "bye")
        assert peer.close_code == 4321, peer.close_code


async def close_codes(url, users):
    user, token = users.pop()
    login = envelope(LOGIN, {"appId": 10001, "userId": user, "token": token})

    async def closes(*messages):
        async with connect(url + "/ws", max_size=None) as peer:
            for message in messages:
                await peer.send(message)
            try:
                while True:
                    await asyncio.wait_for(peer.recv(), 20)
            except ConnectionClosed as closed:
                return closed.rcvd.code

    assert await closes("no envelope") == 4000
    assert await closes(envelope(HEARTBEAT, {})) == 4001
    assert await closes(envelope(LOGIN, {"appId": 10001, "userId": user, "token": "guess"})) == 4002
    assert await closes(login, "x" * 1_000_000) == 1009
    # The second login of a user ends the first.
    async with connect(url + "/ws") as first:
        await first.send(login)
        await expect(first, LOGIN)
        async with connect(url + "/ws") as second:
            await second.send(login)
            await expect(second, LOGIN)
            assert (await expect(first, KICK))["code"] == 4010
            try:
                await first.recv()
                raise AssertionError("open behind KICK")
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 4010, closed
    try:
        async with connect(url + "/nope"):
            raise AssertionError("there is nothing at /nope")
    except InvalidStatus as refused:
        assert refused.response.status_code == 404, refused


def bare_tls(host, port, certificate, users, version):
    """Frames over Python's ssl, twice: the second handshake is shortened by the first one's ticket."""
    context = ssl.create_default_context(cafile=certificate)
    context.minimum_version = context.maximum_version = version
    session = None
    user, token = users.pop()
    for nth in range(2):
        with socket.create_connection((host, port), 20) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as peer:
                assert peer.session_reused == (nth == 1), (version, nth)
                peer.sendall(frame(LOGIN, {"appId": 10001, "userId": user, "token": token}))
                head = b""
                while len(head) < 10:
                    head += peer.recv(10 - len(head))
                magic, code, length = struct.unpack(">Hii", head)
                body = b""
                while len(body) < length:
                    body += peer.recv(length - len(body))
                assert (magic, code) == (JSON, LOGIN), (magic, code, body)
                session = peer.session
                # Ends TLS in order, and waits for the other end to do the same.
                peer.unwrap()


async def main(arguments):
    host, _tcp, ws, tls, certificate, room, *users = arguments
    users = [(int(user), token) for user, token in zip(users[::2], users[1::2])]
    context = ssl.create_default_context(cafile=certificate)
    room = int(room)
    plain_url, sealed_url = f"ws://{host}:{ws}", f"wss://localhost:{tls}"
    for url, seal in [(plain_url, None), (sealed_url, context)]:
        for write in (envelope, frame):
            await talk(url, seal, users, room, write)
        await by_path(url, seal, users, room)
    await close_codes(plain_url, users)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        bare_tls(host, int(tls), certificate, users, version)
    print("OK")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
