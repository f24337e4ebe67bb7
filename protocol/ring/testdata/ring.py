#!/usr/bin/env python3
"""A second implementation of the ring, from the drawing in src/lib.rs alone. Prints ring.tsv: nodes, key, owners in order."""

import bisect

MASK = (1 << 64) - 1
POINTS_PER_WEIGHT = 512


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def mix(value: int) -> int:
    value = value + 0x9E3779B97F4A7C15 & MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def owners(nodes: dict[str, int], key: int) -> list[str]:
    points = sorted(
        (mix(fnv1a(node.encode() + b"\xff" + number.to_bytes(4, "little"))), node)
        for node, weight in nodes.items()
        for number in range(weight * POINTS_PER_WEIGHT)
    )
    start = bisect.bisect_left(points, (mix(key), ""))
    return list(dict.fromkeys(node for _, node in points[start:] + points[:start]))


SETS = [
    {"router-1": 1},
    {"router-1": 1, "router-2": 1},
    {"router-1": 1, "router-2": 1, "router-3": 1},
    {"a": 1, "b": 2, "c": 3, "d": 16},
    {f"gateway-{number}.live.example": 1 for number in range(16)},
    {"主": 2, "备": 1, "naïve": 1},
]
KEYS = [0, 1, 2, 7, 1000, 5555, 10_000, 1 << 31, (1 << 32) + 1, 1 << 53, (1 << 63) - 1, 1 << 63, MASK - 1, MASK]
KEYS += [mix(number) for number in range(10)]

print("# nodes as id*weight, key, owners in order; made by ring.py")
for nodes in SETS:
    for key in KEYS:
        print(",".join(f"{node}*{weight}" for node, weight in nodes.items()), key, ",".join(owners(nodes, key)), sep="\t")
