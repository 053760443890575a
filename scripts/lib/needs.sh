# What the scripts need of the machine, and the one directory for what they write for a while. Source it first.
#
#   take_install "$@"    takes --install out of the arguments; the others are in the array `arguments`
#   provide NEED...      looks for all of these at once. What is missing is named in one line that can be pasted. It is installed
#                        only with --install, or in CI (the variable CI), and by scripts/lib/debian.sh alone
#   scratch              makes the directory SCRATCH, which goes when the script ends, with what still runs in it
#
# A need NAME has a function find_NAME, which fails, or sets what there is to know of it. It changes nothing.

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

install=
arguments=()

take_install() {
  arguments=()
  while [ $# -gt 0 ]; do
    case $1 in
      --install) install=yes ;;
      --) arguments+=("$@"); return ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
}

may_install() {
  [ -n "$install" ] && return
  case "${CI:-}" in "" | 0 | false) return 1 ;; esac
}

# The Debian packages that bring a need.
packages_of() {
  case $1 in
    browser) echo "chromium npm" ;;
    cc) echo "gcc libc6-dev" ;;
    dbos) echo "python3-venv npm" ;;
    faketime) echo libfaketime ;;
    node | matrix) echo npm ;;
    nss_wrapper) echo libnss-wrapper ;;
    postgres) echo postgresql ;;
    psql) echo postgresql-client ;;
    python) echo python3-venv ;;
    redis) echo redis-server ;;
    *) echo "$1" ;;
  esac
}

# Sets a variable to the first of these files that exists.
first_file() {
  local name=$1 file
  shift
  for file in "$@"; do
    if [ -e "$file" ]; then printf -v "$name" %s "$file"; return; fi
  done
  return 1
}

# The bundled SQLite is compiled, and Rust links with it.
find_cc() { command -v cc >/dev/null; }
find_openssl() { command -v openssl >/dev/null; }
find_python() { python3 -c 'import ensurepip, venv' 2>/dev/null; }
find_redis() { REDIS=$(command -v redis-server); }
find_psql() { command -v psql >/dev/null; }
find_sqlite3() { command -v sqlite3 >/dev/null; }
# Debian installs it where only root looks for programs.
find_pgbouncer() { PGBOUNCER=$(PATH=$PATH:/usr/sbin command -v pgbouncer); }
find_strace() { STRACE=$(command -v strace); }
# A library that answers for the names of hosts.
find_nss_wrapper() {
  first_file NSS_WRAPPER /usr/lib/*/libnss_wrapper.so /usr/lib/libnss_wrapper.so /usr/lib64/libnss_wrapper.so
}
# A library that tells programs another time.
find_faketime() {
  first_file FAKETIME_LIB /usr/lib/*/faketime/libfaketime.so.1 /usr/lib/faketime/libfaketime.so.1 \
    /usr/lib64/faketime/libfaketime.so.1
}
# What a German locale is made of.
find_locales() { [ -e /usr/share/i18n/locales/de_DE ] && command -v localedef >/dev/null; }

# The line that installs these packages, as whoever reads it can paste it.
line_for() {
  local by="" update=""
  [ "$(id -u)" = 0 ] || by="sudo "
  # A fresh image knows of no packages yet.
  compgen -G "/var/lib/apt/lists/*_Packages*" >/dev/null || update="${by}apt-get update && "
  if [ -n "$by" ] && ! command -v sudo >/dev/null; then
    echo "su -c '${update#sudo }apt-get install --no-install-recommends $*'"
  else
    echo "$update${by}apt-get install --no-install-recommends $*"
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

provide() {
  local need missing=() packages=()
  for need in "$@"; do
    # shellcheck disable=SC2207
    "find_$need" || { missing+=("$need"); packages+=($(packages_of "$need")); }
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  # shellcheck disable=SC2207
  packages=($(printf '%s\n' "${packages[@]}" | awk '!seen[$0]++'))
  command -v apt-get >/dev/null ||
    die "this is not a Debian system, and what these packages bring on one is missing: ${packages[*]}"
  if ! may_install; then
    say "error: something is missing here. This line installs it:"
    say ""
    say "  $(line_for "${packages[@]}")"
    say ""
    say "With --install, $0 does the same, and lets no server start or be enabled at boot."
    exit 1
  fi
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "root alone can install packages: $(line_for "${packages[@]}")"
  say "installing these Debian packages: ${packages[*]}"
  as_root bash "$root/scripts/lib/debian.sh" "${packages[@]}"
  for need in "${missing[@]}"; do
    "find_$need" || die "installed, and still not found: $(packages_of "$need")"
  done
}

SCRATCH=

scratch() {
  SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/backfill.XXXXXX")
  # As root, servers run as somebody else, who has to get through.
  chmod 755 "$SCRATCH"
  trap end_all EXIT
}

# Ends what a run that was cut off has left behind: whatever was started with this TMPDIR.
kill_the_rest() {
  local file
  for file in $(grep -lzxF "TMPDIR=$SCRATCH" /proc/[0-9]*/environ 2>/dev/null); do
    file=${file#/proc/}
    kill -KILL "${file%/environ}" 2>/dev/null || true
  done
}

end_all() {
  # Who presses Ctrl-C twice still wants no server to stay.
  trap '' INT TERM HUP
  pg_stop_all
  if declare -F redis_stop >/dev/null; then redis_stop; fi
  if [ "${TMPDIR:-}" = "$SCRATCH" ]; then kill_the_rest; fi
  rm -rf "$SCRATCH"
}
