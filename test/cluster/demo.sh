#!/usr/bin/env bash
# demo.sh: a cluster of three on the loopback, to play with. make cluster runs it.
set -euo pipefail
BIN=${BIN:-./bin}
DIR=$(mktemp -d "${TMPDIR:-/tmp}/erlmcp-cluster.XXXXXX")
PIDS=()
trap 'kill "${PIDS[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$DIR"' EXIT
trap 'exit 0' INT TERM

serve() { # number
  "$BIN/erlmcp" serve --data "$DIR/n$1" --set cluster.required=on --listen "127.0.0.1:808$1" --metrics-listen "127.0.0.1:909$1" >"$DIR/n$1.out" 2>"$DIR/n$1.log" &
  PIDS+=($!)
  for _ in $(seq 300); do
    grep -q 'Ctrl-C stops it' "$DIR/n$1.out" && return 0
    kill -0 $! 2>/dev/null || { cat "$DIR/n$1.log" >&2; exit 1; }
    sleep 0.1
  done
  echo "n$1 does not get ready:" >&2; cat "$DIR/n$1.log" >&2; exit 1
}

"$BIN/erlmcp" cluster init --data "$DIR/n1" --name n1 --advertise 127.0.0.1:7401 >/dev/null
serve 1
TOKEN=$("$BIN/erlmcp" cluster token --data "$DIR/n1" --uses 2)
for i in 2 3; do
  "$BIN/erlmcp" cluster join --data "$DIR/n$i" --name "n$i" --advertise "127.0.0.1:740$i" "$TOKEN" >/dev/null
  serve $i
done
for _ in $(seq 100); do
  [ "$("$BIN/erlmcp" cluster status --data "$DIR/n1" --json | grep -c '"votes": true')" = 3 ] && break
  sleep 0.1
done
"$BIN/erlmcp" cluster status --data "$DIR/n1"
cat <<EOF

Three members, TLS between them. Any of these is the server:
  n1  http://127.0.0.1:8081/mcp   process ${PIDS[0]}
  n2  http://127.0.0.1:8082/mcp   process ${PIDS[1]}
  n3  http://127.0.0.1:8083/mcp   process ${PIDS[2]}

Try, in another terminal:
  watch -n 0.5 $BIN/erlmcp cluster status --data $DIR/n2
  kill -9 ${PIDS[0]}                                             # another member leads within a second
  $BIN/erlmcp serve --data $DIR/n1 --set cluster.required=on --listen 127.0.0.1:8081 --metrics-listen off    # it comes back
  $BIN/erlmcp cluster transfer n3 --data $DIR/n2                 # ask any member
  kill -STOP ${PIDS[1]}; sleep 5; kill -CONT ${PIDS[1]}          # a frozen member
  rm -rf $DIR/n2/{wal,store,FORMAT}                              # after kill: it fetches everything anew

Ctrl-C ends all of it and removes $DIR.
EOF
wait
