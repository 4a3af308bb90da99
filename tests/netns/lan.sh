#!/bin/sh
# Two machines on one LAN, as a person uses them: two network namespaces on one bridge, the real program, only the
# commands of the README. They pair with the short code (found by mDNS), sync live, survive a pulled cable, and the
# bytes that an idle pair exchanges are counted on the wire. Needs root, iproute2 and multicast on a bridge.
#
# usage: lan.sh PATH-TO-AHENK-CLI [SECONDS-OF-IDLENESS-TO-MEASURE]
set -eu

program=${1:?usage: lan.sh PATH-TO-AHENK-CLI [SECONDS]}
case $program in /*) ;; *) program=$PWD/$program ;; esac
idle_s=${2:-0}
work=$(mktemp -d)
tag=$$
bridge=ahbr$tag
background=

cleanup() {
    for n in 1 2; do on "$n" stop >/dev/null 2>&1 || true; done
    for pid in $background; do kill "$pid" 2>/dev/null || true; done
    for n in 1 2; do ip netns del "ahns$tag-$n" 2>/dev/null || true; done
    ip link del "$bridge" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

fail() {
    echo "FAILED: $1" >&2
    for log in "$work"/*.log "$work"/home*/logs/*.log; do
        [ -f "$log" ] && echo "--- $log" >&2 && tail -n 40 "$log" >&2
    done
    exit 1
}

# on N COMMAND…: runs the program on machine N.
on() {
    n=$1
    shift
    ip netns exec "ahns$tag-$n" "$program" --home "$work/home$n" "$@"
}

# await SECONDS COMMAND…: repeats a command until it succeeds.
await() {
    tries=$(($1 * 5))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "not in time: $*"
        sleep 0.2
    done
}

# title N IS: whether machine N shows this title.
title() { [ "$(on "$1" get notes n1 title)" = "$2" ]; }

ip link add "$bridge" type bridge mcast_snooping 0
ip link set "$bridge" up
for n in 1 2; do
    namespace=ahns$tag-$n
    ip netns add "$namespace"
    ip link add "ahv$tag-$n" type veth peer name eth0 netns "$namespace"
    ip link set "ahv$tag-$n" master "$bridge" up
    ip -n "$namespace" link set lo up
    ip -n "$namespace" addr add "10.213.8.$n/24" dev eth0
    ip -n "$namespace" link set eth0 up
    ip -n "$namespace" route add default via 10.213.8.254
done

on 1 init --name laptop >/dev/null
on 1 put notes n1 title=before >/dev/null
on 1 device invite --yes --json >"$work/invite.log" 2>&1 &
background="$background $!"
await 20 grep -q '"code"' "$work/invite.log"
code=$(sed -n 's/.*"code": *"\([^"@]*\)".*/\1/p' "$work/invite.log" | head -1)
[ -n "$code" ] || fail "the invitation shows no code"
printf '%s\n' "$code" | on 2 device join --name phone >"$work/join.log" 2>&1 || fail "joining by the short code failed"
title 2 before || fail "the first sync brought nothing"
echo "paired by the short code, and the first sync is done"

on 1 start --daemon >/dev/null
on 2 start --daemon >/dev/null
on 1 sync --timeout 30 >/dev/null || fail "no sync between the daemons"
echo "connected: $(on 2 peer list | tail -1)"
on 1 put notes n1 title=live >/dev/null
await 5 title 2 live
echo "a live edit arrived"

if [ "$idle_s" -gt 0 ]; then
    sleep 5
    bytes() { cat "/sys/class/net/ahv$tag-1/statistics/rx_bytes" "/sys/class/net/ahv$tag-1/statistics/tx_bytes"; }
    before=$(bytes | paste -sd+ | tr -d '\n'); sleep "$idle_s"; after=$(bytes | paste -sd+ | tr -d '\n')
    echo "idle pair: $(((($after) - ($before)) * 60 / idle_s)) bytes a minute on the wire, both ways, headers included"
fi

ip link set "ahv$tag-2" down
on 1 put notes n1 title=apart-1 >/dev/null
on 2 put notes n2 title=apart-2 >/dev/null
ip link set "ahv$tag-2" up
await 60 title 2 apart-1
await 60 on 1 get notes n2
echo "the cable was pulled and plugged, and both have what was written meanwhile"

digest() { on "$1" status --json | sed -n 's/.*"digest": *"\([^"]*\)".*/\1/p' | head -1; }
[ -n "$(digest 1)" ] && [ "$(digest 1)" = "$(digest 2)" ] || fail "the state digests differ"
echo "ok: equal state digests"
