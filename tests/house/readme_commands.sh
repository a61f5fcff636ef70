#!/usr/bin/env bash
# Runs the commands of the README's "Use" section that work on the bundled model. Each block fenced as ```sh is run
# as it stands, from the repository's root, with `laos` on the PATH. Arguments: repository root, path of the binary.
set -euo pipefail
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/models" "$root/recipes" "$root/calib" "$root/tasks" "$root/README.md" "$work"
cd "$work"
PATH="$(dirname "$2"):$PATH"
awk '/^```sh$/ {on = 1; next} /^```$/ {on = 0} on' README.md >commands.sh
count=$(grep -c '^laos ' commands.sh || true)
if ((count < 4)); then
  echo "only $count laos commands found in README.md" >&2
  exit 1
fi
bash -euo pipefail commands.sh
echo "$count README commands ran"
