# Python's dbos, which the benchmark of workflows compares with. Source it after needs.sh; then `provide python`, `workflow_peers`.

WORKFLOW_PEERS=$root/.cache/workflow-peers

# Brings what bench/workflow/dbos.txt names into .cache/workflow-peers, from PyPI. Nothing outside of this directory is changed.
workflow_peers() {
  local venv=$WORKFLOW_PEERS/python
  cmp -s "$root/bench/workflow/dbos.txt" "$venv/have.txt" && return
  say "fetching dbos from PyPI into .cache/workflow-peers"
  rm -rf "${venv:?}"
  mkdir -p "$WORKFLOW_PEERS"
  { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --requirement "$root/bench/workflow/dbos.txt"; } || die "pip install failed"
  cp "$root/bench/workflow/dbos.txt" "$venv/have.txt"
}
