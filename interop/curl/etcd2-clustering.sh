#!/usr/bin/env bash
# The clustering guide of etcd 0.4, line by line, on other ports: each answer has to be what the guide (or, where the two
# differ in form, etcd 0.4 itself) shows. The binary is called 'etcd', and is not told what it is to be.
#
# Usage: etcd2-clustering.sh BINARY FOLDER CLIENT1 CLIENT2 CLIENT3 PEER1 PEER2 PEER3 CLIENT4 PEER4   (ports)
set -euo pipefail

binary=$1 folder=$2
client=(0 "$3" "$4" "$5" "$9") peer=(0 "$6" "$7" "$8" "${10}")
pid=(0 0 0 0 0)
WAIT_SECONDS=120

mkdir -p "$folder"
cd "$folder"
ln -sf "$binary" etcd
unset "${!ETCD_@}"

fail() { echo "FAILED: $*" >&2; exit 1; }

cleanup() {
  for number in 1 2 3 4; do
    [ "${pid[number]}" = 0 ] || kill -9 "${pid[number]}" 2>/dev/null || true
  done
}
trap cleanup EXIT

# start NUMBER [more flags]: the guide's command line of a machine.
start() {
  local n=$1; shift
  : > "machine$n.log"
  ./etcd -peer-addr "127.0.0.1:${peer[n]}" -addr "127.0.0.1:${client[n]}" -bind-addr 127.0.0.1 \
    -peer-bind-addr 127.0.0.1 -data-dir "machines/machine$n" -name "machine$n" "$@" 2>> "machine$n.log" &
  pid[n]=$!
}

said() { grep -q -e "$2" "machine$1.log"; }

ready() {
  local n
  for n in "$@"; do
    until_ "machine$n is ready" said "$n" 'ready to serve client requests'
  done
}

# until_ WHAT COMMAND...: waits until the command succeeds.
until_() {
  local what=$1 deadline=$((SECONDS + WAIT_SECONDS)); shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || { tail -n 20 machine*.log >&2; fail "$what: not within $WAIT_SECONDS s"; }
    sleep 0.05
  done
}

die() { kill -9 "${pid[$1]}"; wait "${pid[$1]}" 2>/dev/null || true; pid[$1]=0; }
interrupt() { kill -INT "${pid[$1]}"; wait "${pid[$1]}" || fail "machine$1 ended with $?"; pid[$1]=0; }

# is WHAT EXPECTED GOT
is() { [ "$2" = "$3" ] || fail "$1: expected"$'\n'"$2"$'\n'"and got"$'\n'"$3"; echo "ok: $1"; }
get() { curl -sSL --max-time 30 "http://127.0.0.1:$1$2"; }
sorted() { tr -d ' ' | tr ',' '\n' | sort | paste -sd, -; }
url() { echo "http://127.0.0.1:$1"; }
machine_node() {
  printf '{"key":"/_etcd/machines/machine%s","value":"etcd=http%%3A%%2F%%2F127.0.0.1%%3A%s\\u0026raft=http%%3A%%2F%%2F127.0.0.1%%3A%s","modifiedIndex":%s,"createdIndex":%s}' \
    "$1" "$2" "$3" "$4" "$5"
}
foo() { echo "{\"action\":\"$1\",\"node\":{\"key\":\"/foo\",\"value\":\"bar\",\"modifiedIndex\":4,\"createdIndex\":4}}"; }
leader_is() { case "$(get "$1" /v2/leader)" in "$2") return 0 ;; *) return 1 ;; esac; }
has_leader() { [[ "$(get "$1" /v2/leader)" == http://127.0.0.1:* ]]; }
reads_foo() { [ "$(get "$1" /v2/keys/foo)" = "$(foo get)" ]; }

# ---- Example cluster of three machines ----
start 1
ready 1
said 1 "because -peer-addr is a flag of etcd 0.4 alone" || fail "the choice of the etcd was not logged"
start 2 -peers "127.0.0.1:${peer[1]},127.0.0.1:${peer[3]}"
ready 2
start 3 -peers "127.0.0.1:${peer[1]},127.0.0.1:${peer[2]}"
ready 3

is "the list of machines" "$(url "${client[1]}"), $(url "${client[2]}"), $(url "${client[3]}")" \
  "$(get "${client[1]}" /v2/machines)"
machines="{\"action\":\"get\",\"node\":{\"key\":\"/_etcd/machines\",\"dir\":true,\"nodes\":[$(
  machine_node 1 "${client[1]}" "${peer[1]}" 1 1),$(
  machine_node 2 "${client[2]}" "${peer[2]}" 2 2),$(
  machine_node 3 "${client[3]}" "${peer[3]}" 3 3)],\"modifiedIndex\":1,\"createdIndex\":1}}"
is "the list of machines in the key API" "$machines" "$(get "${client[1]}" '/v2/keys/_etcd/machines?sorted=true')"
is "the leader is the first machine" "$(url "${peer[1]}")" "$(get "${client[1]}" /v2/leader)"
is "a set" "$(foo set)" "$(curl -sSL --max-time 30 "http://127.0.0.1:${client[1]}/v2/keys/foo" -XPUT -d value=bar)"
until_ "machine2 has foo" reads_foo "${client[2]}"
until_ "machine3 has foo" reads_foo "${client[3]}"

# ---- What the peer port serves ----
is "a machine's name" machine2 "$(get "${peer[2]}" /name)"
is "the store's version" 2 "$(get "${peer[1]}" /version)"
is "the client URL" "$(url "${client[3]}")" "$(get "${peer[3]}" /etcdURL)"
is "the cluster's settings" '{"activeSize":9,"promoteDelay":1800,"removeDelay":1800,"syncInterval":5}' \
  "$(get "${peer[2]}" /v2/admin/config)"
is "an unknown machine" null "$(get "${peer[1]}" /v2/admin/machines/nobody)"
[[ "$(get "${peer[1]}" /v2/admin/machines/machine1)" == \
  "{\"name\":\"machine1\",\"mode\":\"peer\",\"state\":\"leader\",\"clientURL\":\"$(url "${client[1]}")\",\"peerURL\":\"$(url "${peer[1]}")\"}" ]] ||
  fail "machine1 on the peer port: $(get "${peer[1]}" /v2/admin/machines/machine1)"
case "$(curl -sS --max-time 30 -d '{"name":"old","raftURL":"http://127.0.0.1:1"}' "http://127.0.0.1:${peer[1]}/join")" in
  *"a machine of etcd 0.4 can't take part"*) echo "ok: a machine of etcd 0.4 is told that it can't join" ;;
  *) fail "a join of etcd 0.4 was not refused in words" ;;
esac

# ---- Killing nodes in the cluster ----
die 1
new_leader() { leader_is "${client[2]}" "$(url "${peer[2]}")" || leader_is "${client[2]}" "$(url "${peer[3]}")"; }
until_ "a new leader" new_leader
is "a value of the others" "$(foo get)" "$(get "${client[2]}" /v2/keys/foo)"

# ---- Rejoining: started with the old name, as before ----
start 1
ready 1
until_ "machine1 reads" reads_foo "${client[1]}"

# ---- Testing persistence ----
interrupt 1; interrupt 2; interrupt 3
# In any order, and with peers that do not answer.
start 3 -peers "127.0.0.1:${peer[1]},127.0.0.1:${peer[2]}"
start 1
start 2 -peers "127.0.0.1:1"
ready 1 2 3
for n in 1 2 3; do
  until_ "machine$n reads after the restart" reads_foo "${client[n]}"
done
is "no index went by" "$machines" "$(get "${client[3]}" '/v2/keys/_etcd/machines?sorted=true')"

die 1; die 2; die 3
start 2 -peers "127.0.0.1:${peer[1]},127.0.0.1:${peer[3]}"
start 3 -peers "127.0.0.1:${peer[1]},127.0.0.1:${peer[2]}"
start 1
ready 1 2 3
for n in 1 2 3; do
  until_ "machine$n reads after all were killed" reads_foo "${client[n]}"
done
echo "ok: all stopped, all killed, all back"

# ---- Two live machines with one name ----
pid2=${pid[2]}
mkdir -p other
: > other.log
if ./etcd -peer-addr "127.0.0.1:${peer[4]}" -addr "127.0.0.1:${client[4]}" -bind-addr 127.0.0.1 -peer-bind-addr 127.0.0.1 \
  -data-dir other -name machine2 -r 1 -retry-interval 5 -peers "127.0.0.1:${peer[1]}" 2> other.log; then
  fail "a second machine2 was taken"
fi
grep -q "still answers" other.log || { cat other.log >&2; fail "the second machine2 was not told why"; }
grep -q "\[deprecated\] use -max-retry-attempts, not -r" other.log || fail "no word on the older flag"
kill -0 "$pid2" || fail "machine2 went down"
echo "ok: a second machine of the same name is refused"

# ---- Rejoining with an empty folder ----
die 2
rm -r machines/machine2
start 2 -peers "127.0.0.1:${peer[1]},127.0.0.1:${peer[3]}"
ready 2
until_ "machine2 reads after it was wiped" reads_foo "${client[2]}"
is "still three machines" "$(printf '%s,%s,%s' "$(url "${client[1]}")" "$(url "${client[2]}")" "$(url "${client[3]}")" | sorted)" \
  "$(get "${client[3]}" /v2/machines | sorted)"
echo "ok: rejoined with an empty folder"

# ---- Another peer address ----
die 3
old_peer=${peer[3]} peer[3]=${peer[4]}
start 3
ready 3
moved() { [[ "$(get "${client[1]}" /v2/keys/_etcd/machines/machine3)" == *"raft=http%3A%2F%2F127.0.0.1%3A${peer[3]}\""* ]]; }
until_ "the new peer address is known" moved
until_ "machine3 reads at its new address" reads_foo "${client[3]}"
echo "ok: moved from peer port $old_peer to ${peer[3]}"

# ---- Removal ----
curl -sSf --max-time 30 -XDELETE "http://127.0.0.1:${peer[1]}/v2/admin/machines/machine3" || fail "the removal was refused"
wait "${pid[3]}" || fail "the removed machine left with status $?"
pid[3]=0
gone() { [[ "$(get "${client[1]}" /v2/keys/_etcd/machines/machine3)" == *'"errorCode":100'* ]]; }
until_ "machine3 is no longer listed" gone
start 3 -peers "127.0.0.1:${peer[1]}"
ready 3
until_ "machine3 reads after its removal" reads_foo "${client[3]}"
echo "ok: removed, and back as a new machine"

interrupt 1; interrupt 2; interrupt 3
echo "all answers are as they should be"
