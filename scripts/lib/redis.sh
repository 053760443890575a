# A throwaway Redis server for benchmarks, and what is measured beside us. Source it after needs.sh and postgres.sh; then `provide redis`,
# `redis_start`, `redis_stop`.
#
# It lives in a directory in SCRATCH, listens on 127.0.0.1 on a free port, writes an append-only file and gives it to the disk each second, and
# is deleted when the script ends. As root it runs under an unprivileged user.

redis_start() {
  local dir port
  dir=$(mktemp -d "$SCRATCH/redis.XXXXXX")
  if [ "$(id -u)" = 0 ]; then chown "$(pg_user)" "$dir"; fi
  for _ in 1 2 3; do
    port=$(free_port)
    pg_as_user "$REDIS" --port "$port" --bind 127.0.0.1 --dir "$dir" --pidfile "$dir/pid" --save "" --appendonly yes \
      --appendfsync everysec >"$dir/log" 2>&1 &
    for _ in $(seq 100); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then REDIS_URL="redis://127.0.0.1:$port"; return; fi
      sleep 0.05
    done
    redis_stop
  done
  cat "$dir/log" >&2
  die "the throwaway Redis server did not start"
}

# Stops every server in SCRATCH. (What was started in the background is a shell, whose child the server is.)
redis_stop() {
  local file
  for file in "${SCRATCH:-/nowhere}"/redis.*/pid; do
    if [ -e "$file" ]; then { kill -KILL "$(cat "$file")" && wait; } 2>/dev/null || true; fi
  done
}

REDIS_PEERS=$root/.cache/redis-peers

# Brings the peers that bench/redis names into .cache/redis-peers, from npm and PyPI. Nothing outside of this directory is changed.
redis_peers() {
  local peer
  mkdir -p "$REDIS_PEERS/node"
  if ! cmp -s "$root/bench/redis/package.json" "$REDIS_PEERS/node/package.json"; then
    say "fetching BullMQ from npm into .cache/redis-peers"
    cp "$root/bench/redis/package.json" "$REDIS_PEERS/node/package.json"
    (cd "$REDIS_PEERS/node" && npm install --no-audit --no-fund --no-package-lock --loglevel=error >npm.log 2>&1) ||
      { cat "$REDIS_PEERS/node/npm.log" >&2; rm -f "$REDIS_PEERS/node/package.json"; die "npm install failed"; }
  fi
  for peer in arq celery taskiq; do
    if ! cmp -s "$root/bench/redis/$peer.txt" "$REDIS_PEERS/$peer/have.txt"; then
      say "fetching $peer from PyPI into .cache/redis-peers"
      rm -rf "${REDIS_PEERS:?}/$peer"
      { python3 -m venv "$REDIS_PEERS/$peer" && "$REDIS_PEERS/$peer/bin/pip" install --quiet --requirement "bench/redis/$peer.txt"; } ||
        die "pip install failed"
      cp "bench/redis/$peer.txt" "$REDIS_PEERS/$peer/have.txt"
    fi
  done
}
