# Node's graphile-worker, which the compatibility tests and the benchmarks compare with. Source it after needs.sh; then
# `provide node`, `node_packages`.

NODE_DIR=$root/.cache/node

# Whether the packages that tests/node/package.json names are in .cache/node.
node_is_fresh() {
  cmp -s "$root/tests/node/package.json" "$NODE_DIR/package.json" && [ -d "$NODE_DIR/node_modules/graphile-worker" ]
}

# With the packages there, npm has nothing left to do.
find_node() { node_is_fresh || command -v npm >/dev/null; }

# Brings the packages into .cache/node, and sets NODE_BIN. Nothing outside of this directory is changed.
node_packages() {
  if ! node_is_fresh; then
    say "fetching graphile-worker and node from npm into .cache/node, which takes about a minute"
    rm -rf "$NODE_DIR"
    mkdir -p "$NODE_DIR"
    cp "$root/tests/node/package.json" "$NODE_DIR/package.json"
    (cd "$NODE_DIR" && npm install --no-audit --no-fund --no-package-lock --loglevel=error >npm.log 2>&1) ||
      { cat "$NODE_DIR/npm.log" >&2; rm -f "$NODE_DIR/package.json"; die "npm install failed"; }
  fi
  # graphile-worker needs Node 22.18 or later; the npm package `node` carries such a binary.
  for NODE_BIN in "$NODE_DIR"/node_modules/node/bin/node "$NODE_DIR"/node_modules/node/node_modules/node-linux-*/bin/node \
    "$NODE_DIR"/node_modules/node-linux-*/bin/node; do
    [ -x "$NODE_BIN" ] && "$NODE_BIN" --version >/dev/null 2>&1 && return
  done
  die "the npm package node brought no binary that runs here"
}
