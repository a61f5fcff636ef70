#!/usr/bin/env bash
# Makes a release in dist/: Debian packages of three systems, tarball, wheel, checksums. Needs root and the network.
#   scripts/release.sh VERSION
# Sets the version in CMakeLists.txt and gives what stands under "Unreleased" in CHANGELOG.md its heading; both are left
# to be looked at and committed. The fast tests pass on the installed program, not on that of the build tree, and each
# package is tried in a bare system before the checksums are written.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?which version, for instance 1.2.0}
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || { echo "$version is no version like 1.2.0" >&2; exit 2; }
heading="## $version"
if ! grep -q "^$heading " CHANGELOG.md; then
  awk '/^## Unreleased$/ {here = 1; next} /^## / {here = 0} here && NF {found = 1} END {exit !found}' CHANGELOG.md ||
    { echo "CHANGELOG.md has nothing under ## Unreleased" >&2; exit 1; }
  sed -i "s/^## Unreleased\$/## Unreleased\n\n$heading ($(date -u +%Y-%m-%d))/" CHANGELOG.md
fi
sed -i "s/^project(laos VERSION [0-9.]* /project(laos VERSION $version /" CMakeLists.txt

rm -rf dist
for suite in bookworm trixie noble; do scripts/in-system.sh "$suite" scripts/package.sh deb; done
# The oldest C library of the three: they run on all.
scripts/in-system.sh bookworm scripts/package.sh tarball wheel

echo "== fast tests on the installed program"
installed=$PWD/build/installed
rm -rf "$installed" && mkdir -p "$installed"
tar -C "$installed" --strip-components=1 -xzf "dist/laos-$version-linux-$(uname -m).tar.gz"
scripts/install-dependencies.sh
cmake --preset release ${LAOS_CMAKE_ARGS:-} >/dev/null
cmake --build --preset release
mv build/release/laos build/release/laos.built
trap 'mv -f build/release/laos.built build/release/laos' EXIT
ln -s "$installed/bin/laos" build/release/laos
# MovedProgram is about the program of a build tree.
OMP_WAIT_POLICY=passive ctest --preset release -j "$(nproc)" -L fast -E MovedProgram
for suite in bookworm trixie noble; do scripts/try-packages.sh deb "$suite"; done
scripts/try-packages.sh tarball bookworm
scripts/try-packages.sh tarball noble
scripts/try-packages.sh wheel bookworm

(cd dist && sha256sum -- * >SHA256SUMS)
echo "dist/ is whole. Left: look at git diff, commit, tag v$version."
