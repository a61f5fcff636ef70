#!/usr/bin/env bash
# Installs what dist/ holds in bare systems and uses it there as a newcomer would. Needs root and the network.
#   scripts/try-packages.sh deb|tarball|wheel [SUITE]    default: bookworm; the packages are those of dist/
# The system is a fresh one without a compiler; laos quantizes and judges the bundled model there, and finds its recipes
# again after its prefix was moved.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?deb, tarball or wheel} suite=${2:-bookworm}
case $suite in bookworm) system=debian12 ;; trixie) system=debian13 ;; noble) system=ubuntu24.04 ;; *) system='?' ;; esac
version=$(sed -n 's/^project(laos VERSION \([0-9.]*\) .*/\1/p' CMakeLists.txt)
exec scripts/in-system.sh --fresh "$suite" bash -euo pipefail -c '
kind=$1 system=$2 version=$3
# LAOS: the program as it is called; DATA: what came with it.
use() {
  local laos=$1 data=$2
  "$laos" --version
  "$laos" recipes | grep w4a4 >/dev/null
  rm -rf /tmp/out
  "$laos" quant --model-path "$data/models/qwen3-tiny" --save-path /tmp/out \
    --config-path "$data/recipes/qwen3-tiny-w4a4-rotation.yaml" >/tmp/quant.log 2>&1 || { cat /tmp/quant.log; exit 1; }
  grep -E "^(size|time|health)" /tmp/quant.log
  "$laos" eval --model-path /tmp/out --baseline "$data/models/qwen3-tiny" --text "$data/models/qwen3-tiny-eval.txt" \
    --seq-len 256 --max-tokens 4096 2>/dev/null
}
all_found() { ! ldd "$1" | grep "not found"; }
if command -v g++ cc >/dev/null; then echo "this system has a compiler" >&2; exit 1; fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
case $kind in
  deb)
    apt-get install -y -qq --no-install-recommends "./dist/laos_${version}-1~${system}_$(dpkg --print-architecture).deb" >/dev/null
    all_found /usr/bin/laos
    use laos /usr/share/laos
    echo "--- without MPI, two ranks"
    if OMPI_COMM_WORLD_SIZE=2 laos quant --model-path /x --save-path /y; then exit 1; fi
    apt-get install -y -qq --no-install-recommends "./dist/laos-mpi_${version}-1~${system}_$(dpkg --print-architecture).deb" >/dev/null
    echo "--- with MPI, two ranks"
    mpirun --allow-run-as-root --oversubscribe -n 2 laos quant --model-path /usr/share/laos/models/qwen3-tiny \
      --save-path /tmp/ranks --config-path /usr/share/laos/recipes/qwen3-tiny-w4a4-rotation.yaml >/tmp/ranks.log 2>&1 ||
      { cat /tmp/ranks.log; exit 1; }
    for file in /tmp/out/*.safetensors; do cmp "$file" "/tmp/ranks/${file##*/}"; done
    echo "the bytes of one process"
    apt-get install -y -qq --no-install-recommends man-db bash-completion >/dev/null
    man -P cat laos-quant | head -n 5
    bash -c "source /usr/share/bash-completion/bash_completion; _completion_loader laos; complete -p laos"
    mkdir -p /opt/moved/bin /opt/moved/share && mv /usr/bin/laos /opt/moved/bin && mv /usr/share/laos /opt/moved/share
    /opt/moved/bin/laos recipes | grep w4a4 >/dev/null ;;
  tarball)
    mkdir /opt/first && tar -C /opt/first -xzf "dist/laos-$version-linux-$(uname -m).tar.gz"
    mv /opt/first/laos-* /opt/moved
    all_found /opt/moved/bin/laos
    use /opt/moved/bin/laos /opt/moved/share/laos ;;
  wheel)
    apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    python3 -m venv /opt/venv
    /opt/venv/bin/pip install -q dist/laos-"$version"-py3-none-*.whl
    program=$(/opt/venv/bin/python -c "import laos; print(laos.program())")
    all_found "$program"
    data=$(dirname "$(dirname "$program")")/share/laos
    use /opt/venv/bin/laos "$data"
    /opt/venv/bin/python -m laos --version
    DATA=$data /opt/venv/bin/python - <<PYTHON
import os
import laos
data = os.environ["DATA"]
model, recipe = data + "/models/qwen3-tiny", data + "/recipes/qwen3-tiny-w4a4-rotation.yaml"
print("plan:", laos.plan(model, config_path=recipe).peak_ram_bytes)
steps = []
run = laos.quantize(model, "/tmp/python", config_path=recipe, progress=steps.append)
assert steps, "no progress"
print("KL:", laos.evaluate("/tmp/python", baseline=model, text=data + "/models/qwen3-tiny-eval.txt", seq_len=256,
                           max_tokens=4096).kl.mean)
try:
    laos.plan("/nowhere")
except laos.Error as error:
    assert error.exit_code == 1, error.exit_code
else:
    raise AssertionError("no error")
PYTHON
    ;;
esac' bash "$kind" "$system" "$version"
