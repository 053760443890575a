# A browser, and what drives it: for the tests of the admin page. Source it after needs.sh and node.sh; then `provide browser node`,
# `node_packages`, `browser_packages`.

BROWSER_DIR=$root/.cache/browser
BROWSER_LIST=$root/crates/backfill-admin/tests/browser/package.json

find_browser() { BROWSER=$(command -v chromium || command -v chromium-browser || command -v google-chrome); }

browser_is_fresh() { cmp -s "$BROWSER_LIST" "$BROWSER_DIR/package.json" && [ -d "$BROWSER_DIR/node_modules/playwright-core" ]; }

# Brings playwright-core (which brings no browser) and axe-core into .cache/browser. Nothing outside of this directory is changed.
browser_packages() {
  if browser_is_fresh; then return; fi
  say "fetching playwright-core and axe-core from npm into .cache/browser"
  rm -rf "$BROWSER_DIR"
  mkdir -p "$BROWSER_DIR"
  cp "$BROWSER_LIST" "$BROWSER_DIR/package.json"
  (cd "$BROWSER_DIR" && npm install --no-audit --no-fund --no-package-lock --loglevel=error >npm.log 2>&1) ||
    { cat "$BROWSER_DIR/npm.log" >&2; rm -f "$BROWSER_DIR/package.json"; die "npm install failed"; }
}
