#!/usr/bin/env python3
"""Writes seeds/{websocket_frames,websocket_handshake}/: streams of both ends and heads of both sides, right and wrong, so that the fuzzer
gets past the first bytes. Run it after adding some and commit what it writes."""

import pathlib
import shutil

SEEDS = pathlib.Path(__file__).resolve().parent / "seeds"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, FIN = 0, 1, 2, 8, 9, 10, 0x80
MASK = bytes.fromhex("37fa213d")


def frame(masked, first, payload=b""):
    length = len(payload)
    bit = 0x80 if masked else 0
    if length <= 125:
        head = bytes([first, bit | length])
    elif length <= 0xFFFF:
        head = bytes([first, bit | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, bit | 127]) + length.to_bytes(8, "big")
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


def streams():
    euro = "€".encode()
    return {
        "text": [(FIN | TEXT, b"Hello")],
        "binary": [(FIN | BINARY, bytes(range(20)))],
        "length-in-2-bytes": [(FIN | BINARY, b"x" * 126)],
        "the-limit": [(FIN | TEXT, b"x" * 200)],
        "above-the-limit": [(FIN | TEXT, b"x" * 201)],
        "length-in-8-bytes": [(FIN | BINARY, b"x" * 65536)],
        "fragments": [(TEXT, b"Hell"), (CONTINUATION, b""), (FIN | CONTINUATION, b"o")],
        "fragments-with-controls": [(BINARY, b"a"), (FIN | PING, b"p"), (CONTINUATION, b"b"), (FIN | PONG, b""), (FIN | CONTINUATION, b"c")],
        "fragments-above-the-limit": [(BINARY, b"x" * 150), (FIN | CONTINUATION, b"x" * 51)],
        "a-character-in-fragments": [(TEXT, euro[:1]), (CONTINUATION, euro[1:2]), (FIN | CONTINUATION, euro[2:])],
        "a-character-without-end": [(TEXT, euro[:1]), (FIN | CONTINUATION, euro[1:2])],
        "a-surrogate": [(FIN | TEXT, b"\xed\xa0\x80")],
        "overlong": [(FIN | TEXT, b"\xc0\xaf")],
        "129-fragments": [(BINARY, b"x")] + [(CONTINUATION, b"")] * 128,
        "close": [(FIN | CLOSE, b"\x03\xe8bye")],
        "close-without-code": [(FIN | CLOSE, b"")],
        "close-of-one-byte": [(FIN | CLOSE, b"\x03")],
        "close-1005": [(FIN | CLOSE, b"\x03\xed")],
        "close-not-utf-8": [(FIN | CLOSE, b"\x03\xe8\xff")],
        "ping-of-125": [(FIN | PING, b"p" * 125), (FIN | PONG, b"p" * 125)],
        "ping-of-126": [(FIN | PING, b"p" * 126)],
        "ping-in-fragments": [(PING, b"a")],
        "reserved-bit": [(FIN | 0x40 | TEXT, b"x")],
        "reserved-opcode": [(FIN | 3, b"x")],
        "nothing-to-continue": [(FIN | CONTINUATION, b"x")],
        "message-in-a-message": [(TEXT, b"x"), (FIN | TEXT, b"y")],
    }


GOOD = {
    "Host": "example.com:8086", "Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Origin": "https://example.com",
    "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
ANSWER = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}


def head(line, headers):
    return (line + "\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode()


def heads():
    get, switching = "GET /3b1f/10086/1001/20001?v=2 HTTP/1.1", "HTTP/1.1 101 Switching Protocols"
    out = {
        "request": head(get, GOOD),
        "request-with-frames": head(get, GOOD) + b"\x81\x80\x00\x00\x00\x00",
        "request-with-protocols": head(get, GOOD | {"Sec-WebSocket-Protocol": "chat, superchat"}),
        "request-with-empty-body": head(get, GOOD | {"Content-Length": "0"}),
        "request-with-body": head(get, GOOD | {"Content-Length": "5"}),
        "request-in-chunks": head(get, GOOD | {"Transfer-Encoding": "chunked"}),
        "request-of-http-1.0": head("GET / HTTP/1.0", GOOD),
        "request-by-post": head("POST / HTTP/1.1", GOOD),
        "request-of-a-proxy": head("GET http://example.com/ HTTP/1.1", GOOD),
        "request-of-version-8": head(get, GOOD | {"Sec-WebSocket-Version": "8"}),
        "request-with-two-hosts": head(get, GOOD | {"host": "other.example"}),
        "request-with-65-headers": head(get, GOOD | {f"X-{number}": "y" for number in range(60)}),
        "answer": head(switching, ANSWER),
        "answer-with-frames": head(switching, ANSWER) + b"\x81\x00",
        "answer-with-an-extension": head(switching, ANSWER | {"Sec-WebSocket-Extensions": "permessage-deflate"}),
        "answer-503": head("HTTP/1.1 503 Service Unavailable", {"Connection": "close", "Retry-After": "7"}),
        "tls": bytes.fromhex("16030101fe010001fa0303"),
    }
    for name in GOOD:
        out["request-without-" + name.lower()] = head(get, {other: value for other, value in GOOD.items() if other != name})
    return out


def main():
    for target in ("websocket_frames", "websocket_handshake"):
        shutil.rmtree(SEEDS / target, ignore_errors=True)
        (SEEDS / target).mkdir(parents=True)
    frames = SEEDS / "websocket_frames"
    for name, parts in streams().items():
        for end, role, masked in (("server", 0, True), ("client", 0x80, False)):
            stream = b"".join(frame(masked, *part) for part in parts)
            # A header is enough of what is longer: a seed teaches little by its length.
            stream = stream[:900]
            (frames / f"{name}.{end}").write_bytes(bytes([role | 2, 3, 8]) + stream)
    (frames / "length-not-minimal").write_bytes(b"\x80\x81\x7e\x00\x01x")
    (frames / "length-with-its-highest-bit").write_bytes(b"\x80\x81\x7f\xff")
    (frames / "unmasked").write_bytes(b"\x00" + frame(False, FIN | TEXT, b"x"))
    (frames / "masked").write_bytes(b"\x80" + frame(True, FIN | TEXT, b"x"))
    for name, data in heads().items():
        (SEEDS / "websocket_handshake" / name).write_bytes(b"\x80" + data)


main()
