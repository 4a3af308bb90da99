#!/bin/sh
# Two devices in two network namespaces on one bridge: they find each other with no configuration,
# lose each other when the cable is pulled, find each other again when it is back, and a device that
# wants to join finds the one that invites. Needs root, iproute2 and multicast on a bridge.
#
# usage: mdns.sh PATH-TO-BEACON   (cargo build -p transport-libp2p --example beacon)
set -eu

beacon=${1:?usage: mdns.sh PATH-TO-BEACON}
case $beacon in /*) ;; *) beacon=$PWD/$beacon ;; esac
work=$(mktemp -d)
tag=$$
bridge=ahbr$tag
started=

cleanup() {
    for pid in $started; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for n in 1 2; do ip netns del "ahns$tag-$n" 2>/dev/null || true; done
    ip link del "$bridge" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

fail() {
    echo "FAILED: $1" >&2
    for log in "$work"/*.log; do echo "--- $log" >&2; cat "$log" >&2; done
    exit 1
}

# await LOG PATTERN COUNT SECONDS: waits until LOG has at least COUNT lines that match.
await() {
    tries=$(($4 * 10))
    while [ "$(grep -c "$2" "$work/$1.log" || true)" -lt "$3" ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "no line '$2' (x$3) in $1 within $4 s"
        sleep 0.1
    done
}

# start NAME NAMESPACE ARGUMENTS…: a beacon whose input stays open until we end it.
start() {
    name=$1 namespace=$2
    shift 2
    mkfifo "$work/$name.in"
    ip netns exec "$namespace" "$beacon" "$@" <"$work/$name.in" >"$work/$name.log" 2>&1 &
    pid=$!
    started="$started $pid"
}

ip link add "$bridge" type bridge mcast_snooping 0
ip link set "$bridge" up
for n in 1 2; do
    namespace=ahns$tag-$n
    ip netns add "$namespace"
    ip link add "ahv$tag-$n" type veth peer name eth0 netns "$namespace"
    ip link set "ahv$tag-$n" master "$bridge" up
    ip -n "$namespace" link set lo up
    ip -n "$namespace" addr add "10.213.7.$n/24" dev eth0
    ip -n "$namespace" link set eth0 up
    ip -n "$namespace" route add default via 10.213.7.254
done

start one "ahns$tag-1" 1 --member 2
exec 3>"$work/one.in"
start two "ahns$tag-2" 2 --member 1
exec 4>"$work/two.in"
await one '^up ' 1 20
await two '^up ' 1 20
await one '^frame .* hello$' 1 5
await two '^frame .* hello$' 1 5
grep -q '^up .*/10.213.7.2/' "$work/one.log" || fail "one reached two elsewhere than on the bridge"
echo "found each other: $(grep '^up ' "$work/one.log")"

ip link set "ahv$tag-2" down
await one '^down ' 1 30
await two '^down ' 1 30
echo "noticed the pulled cable: $(grep '^down ' "$work/one.log")"

ip link set "ahv$tag-2" up
await one '^up ' 2 40
await two '^up ' 2 40
echo "found each other again: $(grep '^up ' "$work/one.log" | tail -1)"

start inviter "ahns$tag-1" 11 --pair listen
exec 5>"$work/inviter.in"
start joiner "ahns$tag-2" 12 --pair find
exec 6>"$work/joiner.in"
await joiner '^paired welcome$' 1 30
await inviter '^paired hello$' 1 5
echo "paired: $(grep '^candidate ' "$work/joiner.log" | head -1)"

[ "$(grep -c '^candidate ' "$work/joiner.log")" -eq 1 ] || fail "those who do not invite are candidates too"
echo "ok"
