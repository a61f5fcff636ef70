#!/usr/bin/env bash
# Holds what laos writes against what an older one wrote: the bundled model, quantized by both programs on this machine.
#   scripts/same-bytes.sh [--laos FILE] COMMIT [NAME ...]
# COMMIT: built in a worktree of its own below build/same-bytes; with --laos, FILE is that program, built already.
# NAME: recipes whose name contains it ("rtn", "w8a8", ...), as they were at COMMIT; default: every recipe for the model,
# of which those that train take minutes each. Both programs get the same recipe.
# Prints a row a recipe and each file that differs; exit code 1 if one does, or if a program wrote nothing. Records that
# hold times (run.json, report.html) and checksums of the others (SHA256SUMS) are not compared.
set -euo pipefail
old='' commit='' names=()
while (($# > 0)); do
  case $1 in
    --laos) old=$(realpath "$2") && shift 2 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) if [[ -z $commit ]]; then commit=$1; else names+=("$1"); fi && shift ;;
  esac
done
cd "$(dirname "$0")/.."
[[ -n $commit ]] || { echo "usage: scripts/same-bytes.sh [--laos FILE] COMMIT [NAME ...]" >&2; exit 2; }
commit=$(git rev-parse --verify --short "$commit^{commit}")
new=$PWD/build/release/laos work=$PWD/build/same-bytes
[[ -x $new ]] || { echo "build laos first: ./quickstart.sh" >&2; exit 1; }
mkdir -p "$work"

if [[ -z $old ]]; then
  tree=$work/$commit
  [[ -d $tree ]] || git worktree add --quiet --detach "$tree" "$commit"
  (cd "$tree" && cmake --preset release -DLAOS_BENCH=OFF && cmake --build --preset release --target laos_exe) >"$work/build.log" 2>&1 ||
    { tail -n 20 "$work/build.log" >&2; exit 1; }
  old=$tree/build/release/laos
fi

wanted() {
  ((${#names[@]} == 0)) && return 0
  local name
  for name in "${names[@]}"; do [[ $1 == *"$name"* ]] && return 0; done
  return 1
}
# quantize PROGRAM DIR RECIPE
quantize() {
  rm -rf "$2"
  "$1" quant --model-path models/qwen3-tiny --model-type qwen3-tiny --save-path "$2" --config-path "$3" \
    --dataset calib/qwen3-tiny-calib.jsonl >"$2.log" 2>&1
}
files_of() { (cd "$1" && find . -type f ! -name run.json ! -name report.html ! -name SHA256SUMS | sort); }

failed=0 compared=0
printf '%-36s %6s %6s %8s\n' recipe files same seconds
while IFS= read -r path; do
  name=$(basename "$path" .yaml)
  wanted "$name" || continue
  recipe=$work/$name.yaml begin=$SECONDS
  git show "$commit:$path" >"$recipe"
  if ! quantize "$old" "$work/$name-old" "$recipe" || ! quantize "$new" "$work/$name-new" "$recipe"; then
    printf '%-36s a program failed: see %s\n' "$name" "$work/$name-old.log, -new.log"
    failed=1
    continue
  fi
  files=0 same=0 differ=()
  while IFS= read -r file; do
    files=$((files + 1))
    if [[ ! -e $work/$name-new/$file ]]; then
      differ+=("$file: no longer written")
    elif [[ ! -e $work/$name-old/$file ]]; then
      differ+=("$file: was not written")
    elif cmp -s "$work/$name-old/$file" "$work/$name-new/$file"; then
      same=$((same + 1))
    else
      differ+=("$file: other bytes")
    fi
  done < <({ files_of "$work/$name-old"; files_of "$work/$name-new"; } | sort -u)
  printf '%-36s %6d %6d %8d\n' "$name" "$files" "$same" $((SECONDS - begin))
  ((${#differ[@]} == 0)) || { printf '  %s\n' "${differ[@]}" && failed=1; }
  compared=$((compared + 1))
done < <(git ls-tree --name-only "$commit" recipes/ | grep 'qwen3-tiny-.*\.yaml$')
((compared > 0 || failed > 0)) || { echo "no recipe of $commit has such a name" >&2; exit 1; }
exit $failed
