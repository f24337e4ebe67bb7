#!/usr/bin/env python3
"""Writes seeds/quic_streams/: orders of events around streams of frames, right and wrong, so that the fuzzer gets past the magic. Run it after
adding some and commit what it writes. The form of an input stands in gateway/src/quic/trial.rs."""

import pathlib
import shutil
import struct

SEEDS = pathlib.Path(__file__).resolve().parent / "seeds"
ARRIVES, SHARD, OFFERS, TAKES, TAKES_ALL, TASK, FILLS = 0, 1, 2, 4, 5, 6, 7
ANSWERS, CONTROL, EVENT, CHAT, AMBIENT = range(5)
LEAVES = 7 | 31 << 3


def event(what, size=0):
    return what | size << 3


def frame(code, body=b"{}", magic=18673, length=None):
    return struct.pack(">Hii", magic, code, len(body) if length is None else length) + body


LOGIN = frame(1001, b'{"appId":10001,"userId":20001,"token":"t"}')
BEAT = frame(1004)
CHATTER = frame(1003, b'{"roomId":1,"bizCode":5555,"data":"{}","msgId":"m"}')
CASES = {
    "nothing": ([], b""),
    "a-login-at-once": ([event(ARRIVES, 31), event(SHARD, 31)], LOGIN),
    "a-login-byte-by-byte": ([event(ARRIVES), event(SHARD)] * 60, LOGIN),
    "three-frames-in-cuts": ([event(ARRIVES, 1), event(SHARD, 0), event(ARRIVES, 2), event(SHARD, 3)] * 9, LOGIN + BEAT + CHATTER),
    "protobuf": ([event(ARRIVES, 3), event(SHARD, 9)], frame(1001, bytes([8, 145, 78, 16, 161, 156, 1]), 18674)),
    "more-than-the-shard-reads": ([event(ARRIVES, 31)] * 4 + [event(SHARD, 31)] * 3, BEAT * 2_000),
    "no-magic": ([event(ARRIVES, 31), event(SHARD, 31)], b"GET /ws HTTP/1.1\r\n\r\n"),
    "a-length-below-zero": ([event(ARRIVES, 31), event(SHARD, 31)], BEAT + frame(1003, b"", length=-1)),
    "a-body-of-the-limit": ([event(ARRIVES, 2), event(SHARD, 2)] * 8, frame(1003, b"x" * 200) + BEAT),
    "a-body-above-the-limit": ([event(ARRIVES, 2), event(SHARD, 2)] * 8, frame(1003, b"x" * 201) + BEAT),
    "half-a-frame": ([event(ARRIVES, 31), event(SHARD, 31)], CHATTER[:-5]),
    "a-frame-of-each-class": (
        [event(OFFERS, way) for way in range(5)] + [event(TASK), event(TAKES_ALL, 31)] * 30,
        b"",
    ),
    "one-stream-takes-and-the-others-do-not": (
        [event(OFFERS, CHAT), event(OFFERS, EVENT), event(TAKES, EVENT + 25)] * 20,
        BEAT,
    ),
    "chat-fills-its-share-and-gifts-go-on": (
        [event(FILLS, CHAT), event(OFFERS, EVENT), event(TAKES, EVENT + 25), event(OFFERS, AMBIENT)] * 8,
        b"",
    ),
    "full-and-half-empty-again": (
        [event(FILLS, EVENT), event(TAKES, EVENT + 25), event(TAKES, EVENT + 25), event(SHARD, 1), event(FILLS, CONTROL)] * 10,
        b"",
    ),
    "a-byte-at-a-time-down": ([event(OFFERS, ANSWERS), event(OFFERS, CONTROL)] + [event(TAKES, 0), event(TAKES, 1)] * 100, BEAT),
    "leaves-behind-everything": ([event(FILLS, CHAT), event(OFFERS, ANSWERS), event(TAKES, CHAT), LEAVES, event(TAKES_ALL, 31)], LOGIN),
    "leaves-before-anything": ([LEAVES, event(OFFERS, CHAT), event(ARRIVES, 31), event(SHARD, 31)], LOGIN + BEAT),
    "both-directions": (
        [event(ARRIVES, 5), event(OFFERS, 2), event(SHARD, 4), event(TAKES_ALL, 20), event(OFFERS, 3), event(TASK)] * 30,
        (BEAT + CHATTER) * 100,
    ),
}

target = SEEDS / "quic_streams"
shutil.rmtree(target, ignore_errors=True)
target.mkdir(parents=True)
for name, (events, stream) in CASES.items():
    assert len(events) < 256, name
    (target / name).write_bytes(bytes([len(events), *events]) + stream)
