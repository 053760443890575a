# Throwaway PostgreSQL clusters for tests and benchmarks. Source it after needs.sh; then `provide postgres`, `pg_start`,
# `pg_stop_all`.
#
# A cluster lives in a directory in SCRATCH, listens on 127.0.0.1 on a free port, lets everybody in, and is deleted when
# the script ends. PostgreSQL refuses to run as root, so as root it runs under an unprivileged user.

# Sets PG_BIN to a directory with initdb, pg_ctl and postgres.
find_postgres() {
  if [ -n "${PG_BIN:-}" ]; then
    [ -x "$PG_BIN/initdb" ] && [ -x "$PG_BIN/postgres" ] || die "PG_BIN is $PG_BIN, which has no initdb and postgres"
    return
  fi
  local dir
  # shellcheck disable=SC2012
  for dir in "$(pg_config --bindir 2>/dev/null || true)" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -n -r); do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then PG_BIN=$dir; return; fi
  done
  return 1
}

# The user that servers run under.
pg_user() {
  if [ "$(id -u)" != 0 ]; then id -un; elif id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi
}

pg_as_user() {
  if [ "$(id -u)" != 0 ]; then "$@"; else
    # A user with no home directory must not inherit root's, nor a directory it may not read.
    (cd / && exec setpriv --reuid "$(pg_user)" --regid "$(id -g "$(pg_user)")" --clear-groups env HOME=/tmp "$@")
  fi
}

free_port() {
  local port
  for _ in $(seq 100); do
    port=$((20000 + RANDOM % 30000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
  done
  die "no free port was found"
}

# pg_start [SETTING...]: starts a cluster and sets PG_URL. Settings are like fsync=off.
pg_start() {
  local dir port options="" setting
  dir=$(mktemp -d "$SCRATCH/pg.XXXXXX")
  chmod 755 "$dir"
  if [ "$(id -u)" = 0 ]; then chown "$(pg_user)" "$dir"; fi
  pg_as_user env ${PG_LIB:+LD_LIBRARY_PATH="$PG_LIB"} "$PG_BIN/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C >"$dir/initdb.log" 2>&1 ||
    { cat "$dir/initdb.log" >&2; die "initdb failed"; }
  for setting in "$@"; do options="$options -c $setting"; done
  for _ in 1 2 3; do
    port=$(free_port)
    if pg_as_user env ${PG_LIB:+LD_LIBRARY_PATH="$PG_LIB"} "$PG_BIN/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 \
      -o "-p $port -k $dir -c listen_addresses=127.0.0.1$options" start >/dev/null 2>&1; then
      PG_URL="postgres://postgres@127.0.0.1:$port/postgres"
      PG_DATA=$dir/data
      return
    fi
  done
  cat "$dir/log" >&2
  die "the throwaway PostgreSQL server did not start"
}

# Stops every server in SCRATCH, also those that a test has started and not stopped, and deletes its directory.
pg_stop_all() {
  local file dir
  [ -n "${PG_BIN:-}" ] && [ -n "$SCRATCH" ] || return 0
  for file in "$SCRATCH"/*/data/postmaster.pid; do
    [ -e "$file" ] || continue
    dir=${file%/data/postmaster.pid}
    pg_as_user env ${PG_LIB:+LD_LIBRARY_PATH="$PG_LIB"} "$PG_BIN/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$dir"
  done
}
