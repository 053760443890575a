# DBOS's libraries for Python and TypeScript, whose clients the tests of workflows let drive ours. Source it after needs.sh and node.sh; then
# `provide dbos node`, `node_packages`, `dbos_packages`.

DBOS_DIR=$root/.cache/dbos
DBOS_LISTS=$root/crates/backfill-workflow/tests/dbos_clients

dbos_is_fresh() {
  cmp -s "$DBOS_LISTS/requirements.txt" "$DBOS_DIR/requirements.txt" && cmp -s "$DBOS_LISTS/package.json" "$DBOS_DIR/node/package.json" &&
    [ -x "$DBOS_DIR/python/bin/python" ] && [ -d "$DBOS_DIR/node/node_modules/@dbos-inc" ]
}

# With the packages there, nothing is left to do.
find_dbos() { dbos_is_fresh || { find_python && command -v npm >/dev/null; }; }

# Brings the packages into .cache/dbos, and sets DBOS_PYTHON and DBOS_NODE_DIR. Nothing outside of this directory is changed.
dbos_packages() {
  DBOS_PYTHON=$DBOS_DIR/python/bin/python
  DBOS_NODE_DIR=$DBOS_DIR/node
  if dbos_is_fresh; then return; fi
  say "fetching DBOS's libraries from PyPI and npm into .cache/dbos, which takes about a minute"
  rm -rf "$DBOS_DIR"
  mkdir -p "$DBOS_NODE_DIR"
  {
    python3 -m venv "$DBOS_DIR/python" && "$DBOS_PYTHON" -m pip install --quiet --requirement "$DBOS_LISTS/requirements.txt" &&
      cp "$DBOS_LISTS/package.json" "$DBOS_NODE_DIR/package.json" &&
      (cd "$DBOS_NODE_DIR" && npm install --no-audit --no-fund --no-package-lock --loglevel=error)
  } >"$DBOS_DIR/log" 2>&1 || { cat "$DBOS_DIR/log" >&2; die "DBOS's libraries could not be fetched"; }
  cp "$DBOS_LISTS/requirements.txt" "$DBOS_DIR/requirements.txt"
}
