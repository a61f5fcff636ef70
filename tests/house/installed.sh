#!/usr/bin/env bash
# An installation that was moved is whole: the program finds its recipes beside itself, and its manual pages, completions,
# licences and the part that joins ranks are there. Arguments: build folder, with_mpi (ON or OFF).
set -euo pipefail
build=$1 with_mpi=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/first" >"$work/log"
mv "$work/first" "$work/moved"
prefix=$work/moved share=$work/moved/share
fail() { echo "$1" && exit 1; }

unset LAOS_DATA_DIR MSMODELSLIM_CUSTOM_PRACTICE_REPO
plan() {
  "$prefix/bin/laos" quant --model-path "$share/laos/models/qwen3-tiny" --save-path "$work/out" --quant-type w8a8 --dry-run \
    >"$work/plan" 2>&1 || { cat "$work/plan" && exit 1; }
}
plan
grep -q "($share/laos/recipes/" "$work/plan" || { cat "$work/plan" && fail "not the recipe of the installation"; }
# What lies beside the program comes before what a variable says.
mkdir "$work/data" && cp -r "$share/laos/recipes" "$work/data"
LAOS_DATA_DIR=$work/data plan
grep -q "($share/laos/recipes/" "$work/plan" || fail "LAOS_DATA_DIR hides what is beside the program"
mv "$share/laos/recipes" "$work/elsewhere"
LAOS_DATA_DIR=$work/data plan
grep -q "($work/data/recipes/" "$work/plan" || fail "LAOS_DATA_DIR is not looked at"
mv "$work/elsewhere" "$share/laos/recipes"

for command in $("$prefix/bin/laos" help --list); do
  [[ -s $share/man/man1/laos-$command.1 ]] || fail "no manual page of laos $command"
done
for file in man/man1/laos.1 bash-completion/completions/laos zsh/site-functions/_laos fish/vendor_completions.d/laos.fish \
  doc/laos/copyright doc/laos/README.md doc/laos/docs/recipes.md laos/calib/default.jsonl laos/tasks/default.jsonl; do
  [[ -s $share/$file ]] || fail "$file is not installed"
done

# Started as one of two ranks without a launcher to talk to, the module is found and says so; without it that is said.
ranks() { OMPI_COMM_WORLD_SIZE=2 "$prefix/bin/laos" quant --model-path x --save-path y 2>&1 || true; }
if [[ $with_mpi == ON ]]; then
  [[ -s $prefix/lib/laos/liblaos_mpi.so ]] || fail "liblaos_mpi.so is not installed"
  ranks | grep -q "finds itself alone" || fail "liblaos_mpi.so does not load"
  rm "$prefix/lib/laos/liblaos_mpi.so"
fi
ranks | grep -q "liblaos_mpi.so, does not load: there is none" || fail "its absence is not said"
echo "a moved installation is whole"
