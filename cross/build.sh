#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build librkllmrt.so, the example programs, the headers and wheels for a board (cross/README.md).
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: cross/build.sh aarch64-linux|android [-o FOLDER] [-j JOBS] [-b BUILD_FOLDER] [-p PYTHON_ROOT]...

  aarch64-linux  boards with 64-bit Linux; compiler by RKLLM_CROSS_PREFIX, or from PATH
  android        Android on arm64; NDK by ANDROID_NDK_HOME, oldest Android by ANDROID_PLATFORM (android-24)

  -o FOLDER        where lib/, bin/, include/ and wheels go (default: dist/TARGET)
  -j JOBS          compilers at a time                     (default: one per processor)
  -b BUILD_FOLDER  where it is built, kept for next time   (default: build/cross-TARGET)
  -p PYTHON_ROOT   also build the wheel for the Python whose headers are there, any number of times:
                   aarch64-linux: an unpacked arm64 system, with usr/include/python3.x; one of 3.11 and later gives
                   the wheel for all of them, 3.9 or 3.10 the one for 3.9 and later; labelled manylinux by auditwheel
                   android: the prefix of a CPython for Android, with include/python3.x and lib/libpython3.so

Each wheel is built by this machine's Python of the same 3.x: $PYTHON, or python3.x from PATH, with the packages build,
scikit-build-core and cython. auditwheel ($AUDITWHEEL, or from PATH) may belong to any Python.
TEXT
  exit 2
}

fail() { printf '%s\n' "$*" >&2; exit 1; }

[ $# -ge 1 ] || usage
target=$1
shift
case $target in
  aarch64-linux) toolchain=aarch64-linux-gnu.cmake ;;
  android) toolchain=android-arm64.cmake ;;
  *) usage ;;
esac
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$source/dist/$target
build=$source/build/cross-$target
jobs=$(getconf _NPROCESSORS_ONLN)
roots=()
while getopts "o:j:b:p:" option; do
  case $option in
    o) out=$OPTARG ;;
    j) jobs=$OPTARG ;;
    b) build=$OPTARG ;;
    p) roots+=("$OPTARG") ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -eq 0 ] || usage
# Sets what a root has: version (3.x), headers, and for aarch64-linux config, the sysconfig data.
look_into() {
  local root=$1 found
  case $target in
    aarch64-linux) found=("$root"/usr/include/python3.*/Python.h) ;;
    android) found=("$root"/include/python3.*/Python.h) ;;
  esac
  [ ${#found[@]} -eq 1 ] && [ -e "${found[0]}" ] || fail "$root: has ${found[*]}; the headers of one Python are needed"
  headers=$(dirname "${found[0]}")
  version=${headers##*/python}
  config=$root/usr/lib/python$version/_sysconfigdata__aarch64-linux-gnu.py
  case $target in
    aarch64-linux) [ -e "$config" ] || fail "$config is missing: unpack libpython$version-stdlib as well" ;;
    android) [ -e "$root/lib/libpython3.so" ] || fail "$root/lib/libpython3.so is missing: the module has to name it" ;;
  esac
}

for root in ${roots[@]+"${roots[@]}"}; do
  look_into "$root"  # refused now, not after the library is built
done
auditwheel=${AUDITWHEEL:-auditwheel}
if [ "$target" = aarch64-linux ] && [ ${#roots[@]} -gt 0 ]; then
  command -v "$auditwheel" > /dev/null || fail "$auditwheel is not there: pip install auditwheel, or set AUDITWHEEL"
fi
options=(-DCMAKE_TOOLCHAIN_FILE="$source/cross/$toolchain")
[ "$target" != android ] || options+=(-DANDROID_PLATFORM="${ANDROID_PLATFORM:=android-24}")
generator=()
if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja > /dev/null; then
  generator=(-G Ninja)
fi

cmake -S "$source" -B "$build" ${generator[@]+"${generator[@]}"} -DCMAKE_BUILD_TYPE=Release "${options[@]}" \
  -DCMAKE_INSTALL_LIBDIR=lib -DRKLLM_EXT_PYTHON=OFF -DRKLLM_EXT_TESTS=OFF -DRKLLM_EXT_EXAMPLES=ON
cmake --build "$build" --parallel "$jobs"
cmake --install "$build" --prefix "$out" --strip

# A toolchain file alone gives a wheel that is labelled for this machine: the label and the names in it come from the
# building Python's view of its platform. The library is not compiled again; what CMake remembers of another Python goes.
wheel() {
  local root=$1 version headers config python own=$build/python settings=() found
  look_into "$root"
  python=${PYTHON:-python$version}
  found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run: set PYTHON"
  [ "$found" = "$version" ] || fail "$python is Python $found, and the headers of $root are of $version: set PYTHON"
  rm -rf "$own" "$build/.skbuild-info.json"  # without the latter, another Python's scikit-build-core goes on in the folder
  cmake -S "$source" -B "$build" -U'*Python*' -U'SKBUILD*' -DRKLLM_EXT_PYTHON=OFF > "$build/forget.log"
  mkdir -p "$own/include" "$own/config" "$own/wheel"
  cp -r "$headers/." "$own/include"
  case ${version#3.} in
    9 | 10) settings+=(-Cwheel.py-api=cp39) ;;
    *) settings+=(-Cwheel.py-api=cp311) ;;
  esac
  if [ "$target" = aarch64-linux ]; then
    # Debian's pyconfig.h only includes the one of the architecture.
    cp "$root/usr/include/aarch64-linux-gnu/python$version/pyconfig.h" "$own/include/pyconfig.h"
    [ ! -e "$root/usr/include/crypt.h" ] || cp "$root/usr/include/crypt.h" "$own/include"  # Python.h of 3.9 has it
    cp "$config" "$own/config"  # alone in its folder: every Python of the build sees what is there
    local -x _PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu
  else
    local -x _PYTHON_HOST_PLATFORM=$ANDROID_PLATFORM-arm64_v8a
    settings+=(-Ccmake.define.ANDROID_PLATFORM="$ANDROID_PLATFORM"
      -Ccmake.define.RKLLM_EXT_LIBPYTHON="$(cd "$root" && pwd)/lib/libpython3.so")
  fi
  CMAKE_TOOLCHAIN_FILE=$source/cross/$toolchain CMAKE_BUILD_PARALLEL_LEVEL=$jobs \
    PYTHONPATH=$own/config${PYTHONPATH:+:$PYTHONPATH} \
    "$python" -m build --wheel --no-isolation --skip-dependency-check --outdir "$own/wheel" "$source" \
    ${settings[@]+"${settings[@]}"} -Cbuild-dir="$build" \
    -Ccmake.define.Python_INCLUDE_DIR="$own/include" -Ccmake.define.RKLLM_EXT_PYTHON=ON \
    -Ccmake.define.RKLLM_EXT_EXAMPLES=OFF
  if [ "$target" = aarch64-linux ]; then
    "$auditwheel" repair --plat auto --wheel-dir "$out" "$own"/wheel/*.whl
  else
    mv "$own"/wheel/*.whl "$out"
  fi
}
for root in ${roots[@]+"${roots[@]}"}; do
  wheel "$root"
done
echo "$out:"
(cd "$out" && find . -type f | sed 's#^\./##' | sort)
