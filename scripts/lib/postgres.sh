# Throwaway PostgreSQL clusters for tests and benchmarks. Source it; then `pg_find`, `pg_start`, `pg_stop_all`.
#
# A cluster lives in a temporary directory, listens on 127.0.0.1 on a free port, lets everybody in, and is deleted when
# the script ends. PostgreSQL refuses to run as root, so as root it runs under an unprivileged user.

pg_clusters=()

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Runs a command as root if that is possible.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    die "this needs root: $*"
  fi
}

# Installs a Debian package, saying so.
apt_install() {
  command -v apt-get >/dev/null || die "$1 is not installed, and this is not a Debian system; install it and run this again"
  say "installing the Debian package $1"
  as_root env DEBIAN_FRONTEND=noninteractive sh -c "(apt-get install -y '$1' || (apt-get update && apt-get install -y '$1')) >/dev/null" ||
    die "could not install $1"
}

# Sets PG_BIN to a directory with initdb, pg_ctl and postgres, installing PostgreSQL if there is none.
pg_find() {
  [ -n "${PG_BIN:-}" ] && return
  local dir
  for _ in 1 2; do
    for dir in "$(pg_config --bindir 2>/dev/null || true)" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -n -r); do
      if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then PG_BIN=$dir; return; fi
    done
    # Without this, Debian's package would also start a server of its own.
    apt_install postgresql
  done
  die "PostgreSQL is installed, but its initdb was not found; set PG_BIN to the directory that has it"
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
  pg_find
  local dir port options="" setting
  dir=$(mktemp -d "${TMPDIR:-/tmp}/backfill-pg.XXXXXX")
  chmod 755 "$dir"
  [ "$(id -u)" = 0 ] && chown "$(pg_user)" "$dir"
  pg_clusters+=("$dir")
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

pg_stop_all() {
  local dir
  for dir in "${pg_clusters[@]}"; do
    pg_as_user env ${PG_LIB:+LD_LIBRARY_PATH="$PG_LIB"} "$PG_BIN/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$dir"
  done
  pg_clusters=()
}
