#!/usr/bin/env bash
# quickstart.sh and test.sh configure the same build folder. In either order test.sh must build the tests and
# quickstart.sh must not, and no tests found is an error. Argument: repository root. Configures, and builds nothing.
set -euo pipefail
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in CMakeLists.txt CMakePresets.json cmake src tests bench recipes calib tasks scripts; do ln -s "$root/$name" "$work/$name"; done
cp "$root/test.sh" "$root/quickstart.sh" "$work"
cd "$work"
unset LAOS_PRESET LAOS_CMAKE_ARGS

# In place of a build, what it would build; the script ends there.
mkdir programs
cat >programs/cmake <<END
#!/usr/bin/env bash
if [[ \$1 != --build ]]; then exec $(command -v cmake) "\$@"; fi
ninja -C build/release -t targets all >$work/targets
exit 42
END
chmod +x programs/cmake
export PATH=$work/programs:$PATH

expect() {  # SCRIPT yes|no: whether it builds tests
  local status=0 has=no
  "./$1" >log 2>&1 || status=$?
  if ((status != 42)); then
    cat log
    echo "$1 does not come to its build"
    exit 1
  fi
  grep -q 'laos_exe' targets
  if grep -q '^tests/core_test:' targets; then has=yes; fi
  if [[ $has != "$2" ]]; then
    echo "after $3: tests are built by $1: $has"
    exit 1
  fi
}
expect quickstart.sh no nothing
if ctest --preset release >log 2>&1; then
  echo "no tests found, and ctest is content"
  exit 1
fi
expect test.sh yes quickstart.sh
expect quickstart.sh no test.sh
