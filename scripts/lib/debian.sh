#!/usr/bin/env bash
# Installs Debian packages and nothing more: none that is only recommended, and no server is started, now or at boot.
# As root: bash scripts/lib/debian.sh PACKAGE...
set -euo pipefail

log=$(mktemp)
# What is put somewhere for as long as this takes.
made=("$log")
clusters=/etc/postgresql-common/createcluster.d
end() {
  rm -f "${made[@]}"
  # If nothing was installed after all.
  rmdir "$clusters" "${clusters%/*}" 2>/dev/null || true
}
trap end EXIT

# Their servers, if they are not here already: what somebody else has installed stays as it is.
servers=()
for server in postgresql pgbouncer; do
  case " $* " in *" $server "*) [ -e "/etc/init.d/$server" ] || servers+=("$server") ;; esac
done

if [ ${#servers[@]} -gt 0 ]; then
  # No cluster `main`, on the port that everybody looks at.
  mkdir -p "$clusters"
  printf 'create_main_cluster = false\n' >"$clusters/none.conf"
  made+=("$clusters/none.conf")
  # Whoever has such a file already has decided what may start.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    made+=("$policy")
    printf '#!/bin/sh\ncase "$1" in postgresql* | pgbouncer*) exit 101 ;; esac\nexit 0\n' >"$policy"
    chmod 755 "$policy"
  fi
fi

install() { apt-get install -y --no-install-recommends "$@" </dev/null >>"$log" 2>&1; }

export DEBIAN_FRONTEND=noninteractive
install "$@" || { apt-get update >>"$log" 2>&1 && install "$@"; } || {
  cat "$log" >&2
  echo "error: could not install $*" >&2
  exit 1
}

# The packages have enabled them in both ways that Debian knows, whichever of the two this machine boots by.
for server in "${servers[@]}"; do
  if command -v systemctl >/dev/null; then systemctl disable --quiet "$server.service" >>"$log" 2>&1 || true; fi
  rm -f /etc/systemd/system/*.wants/"$server.service"
  if command -v update-rc.d >/dev/null; then update-rc.d "$server" disable >>"$log" 2>&1 || true; fi
  if compgen -G "/etc/rc[2-5].d/S??$server" >&2; then
    cat "$log" >&2
    echo "error: $server is installed, and these links still start it at boot" >&2
    exit 1
  fi
done
