#!/usr/bin/env python3
"""A wire with delay, jitter, loss and a rate between two tap devices, for kernels without `tc netem`.

usage: wire.py TAP-A TAP-B DELAY-MS JITTER-MS LOSS-PERCENT RATE-MBIT

Frames keep their order in each direction. What waits is bounded; beyond that, frames are lost.
"""
import collections
import fcntl
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
WAITING_MAX = 1_000


def tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def main():
    a, b = tap(sys.argv[1]), tap(sys.argv[2])
    delay, jitter, loss, rate = (float(text) for text in sys.argv[3:7])
    free = {a: 0.0, b: 0.0}
    chance = random.Random(7)
    waiting = {a: collections.deque(), b: collections.deque()}
    poll = select.poll()
    for device in (a, b):
        poll.register(device, select.POLLIN)
    print("ready", flush=True)
    while True:
        firsts = [queue[0][0] for queue in waiting.values() if queue]
        wait = max(0.0, min(firsts) - time.monotonic()) * 1000 if firsts else 1000
        poll.poll(wait)
        now = time.monotonic()
        for device, other in ((a, b), (b, a)):
            queue = waiting[other]
            # A bounded number at a time, so that what is due leaves in between.
            for _ in range(64):
                try:
                    frame = os.read(device, 2048)
                except BlockingIOError:
                    break
                except OSError:
                    break  # The device is down.
                if chance.random() * 100 < loss or len(queue) >= WAITING_MAX:
                    continue
                free[other] = max(now, free[other]) + len(frame) * 8 / (rate * 1e6)
                due = free[other] + (delay + chance.random() * jitter) / 1000
                queue.append((max(due, queue[-1][0]) if queue else due, frame))
        for device, queue in waiting.items():
            while queue and queue[0][0] <= now:
                try:
                    os.write(device, queue.popleft()[1])
                except OSError:
                    pass  # The device is down or its queue is full: lost, as on a real wire.


main()
