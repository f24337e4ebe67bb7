#!/usr/bin/env python3
"""Writes seeds/envelope/: one legal envelope of most kinds, so that the fuzzer gets past the length. Run it after adding kinds to
proto/link.proto and commit what it writes."""

import pathlib
import shutil

SEEDS = pathlib.Path(__file__).resolve().parent / "seeds" / "envelope"


def varint(number):
    out = b""
    while True:
        number, low = number >> 7, number & 0x7F
        out += bytes([low | (0x80 if number else 0)])
        if not number:
            return out


def field(number, value):
    """Numbers as varints; bytes, text and messages with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*values):
    return b"".join(field(number, value) for number, value in enumerate(values, 1) if value not in (0, "", b""))


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    SEEDS.mkdir(parents=True)
    origin = message(10001, 20001, 3, 1 << 50)
    push = message(5555, '{"content":"hi"}', "r7-4294967298", 7, (1 << 32) + 2, 1_800_000_000_000, 1, 1, "audience")
    kick = message(10001, 20001, 3, 4010, "elsewhere", 9)
    call = lambda number, body: message(1, origin) + field(number, body)
    kinds = {
        "hello": (1, message(1, "a secret between us", "gateway-1", 1_800_000_000_000, 16384, 1)),
        "welcome": (2, message(1, "router-1", "bad secret", 16384, 7)),
        "credit": (3, message(2048)),
        "ping": (4, message(1 << 63, 1)),
        "biz": (10, call(3, message(7, 5555, "{}", "m1"))),
        "join": (10, call(4, message(7) + field(2, 5))),
        "sync": (10, call(6, message(7, 5, "5-0", 1))),
        "order": (10, call(8, message(7, "{}"))),
        "interest": (11, message(7, 1, 3, (1 << 32) + 2)),
        "gone": (12, message(origin, b"\x07\x08\x09")),
        "relay": (13, message("gateway-2", 5, kick)),
        "seats": (14, message(7, 1, 2, origin, 1, 1)),
        "joined": (20, message(1) + field(4, message(7, 5, "{}", 3))),
        "moved": (20, message(1) + field(7, message("router-2"))),
        "room_push": (21, message(push, 1, 20001, 500)),
        "user_push": (22, message(10001, b"\x01\x02", push, 9)),
        "all_push": (23, message(10001, push)),
        "kick": (24, kick),
        "evict": (25, message(10001, 7, 20001, 1)),
        "bye": (27, message("the router stops")),
        "roll_call": (28, message(7, 1, 2)),
        "from a newer release": (4000, message("?")),
    }
    stream = b""
    for name, (number, body) in kinds.items():
        envelope = field(number, body)
        framed = len(envelope).to_bytes(4, "big") + envelope
        (SEEDS / name.replace(" ", "-")).write_bytes(b"\x00" + framed)
        stream += framed
    (SEEDS / "all-in-cuts").write_bytes(b"\x02\x03\x08" + stream)
    (SEEDS / "too-large").write_bytes(b"\x00" + (1024 * 1024 + 1).to_bytes(4, "big"))


main()
