#!/usr/bin/env bash
# Runs a command in a bare Debian or Ubuntu, made once by debootstrap in build/systems; the project is at /laos there.
# Needs root.
#   scripts/in-system.sh [--fresh] SUITE COMMAND...    SUITE: bookworm (Debian 12), trixie (13), noble (Ubuntu 24.04)
# --fresh: in a copy as debootstrap left it, which is thrown away afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=''
if [[ ${1:-} == --fresh ]]; then fresh=1 && shift; fi
suite=${1:?a suite is missing: bookworm, trixie or noble} && shift
scripts/install-packages.sh debootstrap
base=$PWD/build/systems/$suite
if [[ ! -e $base.complete ]]; then
  rm -rf "$base" && mkdir -p "$base"
  case $suite in
    noble)
      # Debian does not have Ubuntu's keys.
      ubuntu=https://archive.ubuntu.com/ubuntu keyring=$base.keyring
      scripts/install-packages.sh curl ca-certificates zstd >&2
      curl -fsSL -o "$keyring.deb" $ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb
      echo "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8  $keyring.deb" | sha256sum --check --quiet
      dpkg -x "$keyring.deb" "$keyring"
      debootstrap --variant=minbase --components=main,universe \
        --keyring="$keyring/usr/share/keyrings/ubuntu-archive-keyring.gpg" noble "$base" http://archive.ubuntu.com/ubuntu \
        /usr/share/debootstrap/scripts/gutsy ;;
    *) debootstrap --variant=minbase "$suite" "$base" ;;
  esac >"$base.log"
  tar -C "$base" -cf "$base.tar" .
  touch "$base.complete"
fi
root=$base
if [[ -n $fresh ]]; then
  root=$(mktemp -d "$base.XXXXXX")
  trap 'rm -rf "$root"' EXIT
  tar -C "$root" -xf "$base.tar"
fi
mkdir -p "$root/laos"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
# What is mounted here goes with the shell that it is mounted for.
export root
unshare --mount bash -euo pipefail -c '
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --bind . "$root/laos"
  exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb \
    ${LAOS_CMAKE_ARGS:+LAOS_CMAKE_ARGS="$LAOS_CMAKE_ARGS"} sh -c "cd /laos && exec \"\$@\"" sh "$@"
' bash "$@"
