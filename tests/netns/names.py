#!/usr/bin/env python3
"""A name server at 127.0.0.1 that knows one name.

usage: names.py NAME IPV4-ADDRESS
"""
import socket
import sys


def main():
    name, address = sys.argv[1], socket.inet_aton(sys.argv[2])
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    print("ready", flush=True)
    while True:
        query, client = server.recvfrom(512)
        end = query.index(0, 12) + 5
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += query[at] + 1
        asked = ".".join(labels).lower()
        print(asked, flush=True)
        found = asked == name and query[end - 4 : end - 2] == b"\0\1"
        header = query[:2] + b"\x81\x80" + b"\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + address if found else b""
        server.sendto(header + query[12:end] + answer, client)


main()
