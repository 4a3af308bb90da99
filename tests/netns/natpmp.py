"""A router's NAT-PMP (RFC 6886), which maps a port by a rule of nft. It knows no PCP, and says so as the RFC wants it.

usage: natpmp.py LAN-ADDRESS WAN-ADDRESS LIFETIME-SECONDS      (in the router's namespace)

What it is asked for is granted for LIFETIME-SECONDS at most and then forgotten, so that whoever does not renew it is found
out. Prints a line for each thing that happens: "ready", "map", "renew", "delete", "expire".
"""

import socket
import struct
import subprocess
import sys
import time

lan, wan, lifetime = sys.argv[1], sys.argv[2], int(sys.argv[3])
began = time.monotonic()
mapped = {}  # (protocol, client, internal port) -> when it ends


def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)


def rules():
    lines = ["flush chain ip natpmp pre"]
    for kind, client, port in mapped:
        lines.append(f'add rule ip natpmp pre iifname "wan" {kind} dport {port} dnat to {client}:{port}')
    nft("\n".join(lines) + "\n")


def say(*words):
    print(*words, flush=True)


def forget(key, why):
    del mapped[key]
    rules()
    say(why, *key)


def answer(request, client):
    if len(request) < 2 or request[0] != 0:
        return struct.pack("!BBHI", 0, 128 | request[1] if len(request) > 1 else 128, 1, epoch())
    if request[1] == 0:
        return struct.pack("!BBHI", 0, 128, 0, epoch()) + socket.inet_aton(wan)
    if request[1] not in (1, 2) or len(request) < 12:
        return struct.pack("!BBHI", 0, 128 | request[1], 5, epoch())
    internal, _, seconds = struct.unpack("!HHI", request[4:12])
    key = ("udp" if request[1] == 1 else "tcp", client, internal)
    seconds = min(seconds, lifetime)
    if seconds == 0:
        if key in mapped:
            forget(key, "delete")
    else:
        new = key not in mapped
        mapped[key] = time.monotonic() + seconds
        if new:
            rules()
        say("map" if new else "renew", *key)
    return struct.pack("!BBHIHHI", 0, 128 | request[1], 0, epoch(), internal, internal if seconds else 0, seconds)


def epoch():
    return int(time.monotonic() - began)


nft("table ip natpmp { chain pre { type nat hook prerouting priority -100; }; }")
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((lan, 5351))
server.settimeout(0.2)
say("ready")
while True:
    try:
        request, (client, port) = server.recvfrom(1100)
        server.sendto(answer(request, client), (client, port))
    except TimeoutError:
        pass
    for key in [key for key, end in mapped.items() if end < time.monotonic()]:
        forget(key, "expire")
