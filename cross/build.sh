#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build librkllmrt.so, the example programs and the headers for a board (cross/README.md).
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: cross/build.sh aarch64-linux|android [-o FOLDER] [-j JOBS] [-b BUILD_FOLDER] [-p ARM64_ROOT]

  aarch64-linux  boards with 64-bit Linux; compiler by RKLLM_CROSS_PREFIX, or from PATH
  android        Android on arm64; NDK by ANDROID_NDK_HOME

  -o FOLDER        where lib/, bin/ and include/ go        (default: dist/TARGET)
  -j JOBS          compilers at a time                     (default: one per processor)
  -b BUILD_FOLDER  where it is built, kept for next time   (default: build/cross-TARGET)
  -p ARM64_ROOT    aarch64-linux: also build the wheel, with the Python headers of this unpacked arm64 system;
                   $PYTHON, or python3, builds it: of the same 3.x, with build, scikit-build-core and cython
TEXT
  exit 2
}

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
root=
while getopts "o:j:b:p:" option; do
  case $option in
    o) out=$OPTARG ;;
    j) jobs=$OPTARG ;;
    b) build=$OPTARG ;;
    p) root=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -eq 0 ] || usage
[ -z "$root" ] || [ "$target" = aarch64-linux ] || usage
generator=()
if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja > /dev/null; then
  generator=(-G Ninja)
fi

cmake -S "$source" -B "$build" ${generator[@]+"${generator[@]}"} -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_TOOLCHAIN_FILE="$source/cross/$toolchain" -DCMAKE_INSTALL_LIBDIR=lib \
  -DRKLLM_EXT_PYTHON=OFF -DRKLLM_EXT_TESTS=OFF -DRKLLM_EXT_EXAMPLES=ON
cmake --build "$build" --parallel "$jobs"
cmake --install "$build" --prefix "$out" --strip

# A toolchain file alone gives a wheel that is labelled for this machine: the names of the target's Python come from its
# sysconfig data, which has to be alone in its folder, as every Python of the build sees what is there.
wheel() {
  local python=${PYTHON:-python3} version headers config
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  headers=$root/usr/include/python$version
  config=$root/usr/lib/python$version/_sysconfigdata__aarch64-linux-gnu.py
  if [ ! -e "$headers/Python.h" ] || [ ! -e "$config" ]; then
    echo "$root: has no headers and sysconfig data of Python $version, which is what $python is" >&2
    return 1
  fi
  rm -rf "$build-python" && mkdir -p "$build-python/include" "$build-python/config"
  cp -r "$headers/." "$build-python/include"
  # Debian's pyconfig.h only includes the one of the architecture.
  cp "$root/usr/include/aarch64-linux-gnu/python$version/pyconfig.h" "$build-python/include/pyconfig.h"
  cp "$config" "$build-python/config"
  CMAKE_TOOLCHAIN_FILE=$source/cross/$toolchain CMAKE_BUILD_PARALLEL_LEVEL=$jobs PYTHONPATH=$build-python/config \
    _PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu \
    "$python" -m build --wheel --no-isolation --skip-dependency-check --outdir "$out" "$source" \
    -Cwheel.py-api=cp311 -Cbuild-dir="$build-wheel" -Ccmake.define.Python_INCLUDE_DIR="$build-python/include"
}
[ -z "$root" ] || wheel
echo "$out:"
(cd "$out" && ls lib/librkllmrt.so bin/* include/* ${root:+*.whl})
