#!/usr/bin/env bash
# Two hosts on one machine: network namespaces with addresses and host names of their own, one rank on each. The bytes
# are those of one process. Skipped (77) where namespaces or mpirun are not to be had.
#   two_hosts.sh LAOS MPIRUN SOURCE_DIRECTORY
set -euo pipefail
laos=$1 mpirun=$2 source=$3
skip() { echo "skipped: $1"; exit 77; }
[[ -n $mpirun && -x $mpirun ]] || skip "this build is without MPI"
for tool in ip unshare; do command -v "$tool" >/dev/null || skip "there is no $tool"; done
out=$(mktemp -d)
a=laosa$$ b=laosb$$
cleanup() {
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$out"
}
trap cleanup EXIT
ip netns add "$a" 2>/dev/null && ip netns add "$b" 2>/dev/null || skip "network namespaces are not permitted"
ip link add v0 netns "$a" type veth peer name v1 netns "$b" 2>/dev/null || skip "there are no veth links"
ip -n "$a" addr add 10.211.7.1/24 dev v0
ip -n "$b" addr add 10.211.7.2/24 dev v1
for side in "$a v0" "$b v1"; do
  set -- $side
  ip -n "$1" link set lo up
  ip -n "$1" link set "$2" up
done
ip netns exec "$a" unshare --uts true 2>/dev/null || skip "host names of one's own are not permitted"

# What mpirun reaches the other host by: ssh to those who look no closer.
cat >"$out/agent" <<AGENT
#!/bin/sh
[ "\$1" = 10.211.7.2 ] || exit 1
shift
exec ip netns exec $b unshare --uts sh -c "hostname hostb; \$*"
AGENT
chmod +x "$out/agent"

sed 's/iters: 400/iters: 2/' "$source/recipes/qwen3-tiny-w4a4.yaml" >"$out/recipe.yaml"
arguments=(quant --no-health --model-type qwen3-tiny --model-path "$source/models/qwen3-tiny"
  --config-path "$out/recipe.yaml" --dataset "$source/calib/qwen3-tiny-calib.jsonl")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
"$laos" "${arguments[@]}" --save-path "$out/one" >"$out/log" 2>&1 || { cat "$out/log"; exit 1; }
ip netns exec "$a" unshare --uts sh -c 'hostname hosta; exec "$@"' sh \
  "$mpirun" --host 10.211.7.1:1,10.211.7.2:1 --bind-to none -x OMP_NUM_THREADS -x OMP_WAIT_POLICY \
  --mca plm_rsh_agent "$out/agent" --mca plm_rsh_no_tree_spawn 1 --mca btl self,tcp \
  --mca btl_tcp_if_include 10.211.7.0/24 --mca oob_tcp_if_include 10.211.7.0/24 -n 2 \
  "$laos" "${arguments[@]}" --save-path "$out/two" >"$out/log" 2>&1 || { cat "$out/log"; exit 1; }
cmp "$out/one/SHA256SUMS" "$out/two/SHA256SUMS"
for host in hosta hostb; do
  grep -q "\"host\": \"$host\"" "$out/two/run.json" || { echo "no rank ran on $host"; exit 1; }
done
echo "same bytes from two hosts"
