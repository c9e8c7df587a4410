#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpack what a cross build needs out of Debian's packages into a folder; nothing is installed (cross/README.md).
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: cross/unpack.sh WHAT FOLDER

  gcc-10         Debian 11's GCC 10.2.1 for aarch64; afterwards RKLLM_CROSS_PREFIX=FOLDER
  clang-9        Debian 11's clang 9 and libc++ 9, the generation of Android's NDK r21e: FOLDER/bin/clang++
  python3.9, python3.11, python3.13
                 an arm64 Python: its headers for cross/build.sh -p FOLDER; FOLDER/bin/python3.11 runs it with
                 qemu-aarch64, as the processor that QEMU_CPU names
  pc-python3.9   Debian 11's Python 3.9 for this PC, which builds wheels for 3.9: FOLDER/bin/python3.9, with the
                 packages build, scikit-build-core and cython, fetched by pip of $PYTHON, or python3

Needs apt-get and dpkg-deb, no root. Packages come from the mirror of this machine, or of DEBIAN_MIRROR.
TEXT
  exit 2
}

[ $# -eq 2 ] || usage
what=$1
target=$2
folder=$target.part  # renamed when it is whole

# A package manager's state of its own: the machine's lists and packages are neither read nor changed.
use_suite() {
  local suite=$1 architecture=$2 mirror=${DEBIAN_MIRROR:-} keys=/usr/share/keyrings/debian-archive-keyring.gpg
  if [ -z "$mirror" ]; then
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
      grep -oE 'https?://[^ ]*/debian/?( |$)' | head -n 1 | tr -d ' ') || true
  fi
  state=$(mktemp -d)
  trap 'rm -rf "$state" "$folder"' EXIT
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  : > "$state/status"
  echo "deb [arch=$architecture${keys:+ signed-by=$keys}] ${mirror:-http://deb.debian.org/debian} $suite main" > "$state/list"
  apt=(apt-get -qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture"
    -o Dir::Etc::sourcelist="$state/list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$state/lists"
    -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" -o APT::Install-Recommends=false
    -o APT::Sandbox::User=root -o Debug::NoLocking=true)
  "${apt[@]}" update
}

# unpack PACKAGE...: the packages themselves; unpack_all: with all they depend on.
unpack() {
  (cd "$state/cache/archives" && "${apt[@]}" download "$@")
  extract
}
unpack_all() {
  "${apt[@]}" --yes --download-only install "$@"
  extract
}
extract() {
  local directory package
  for directory in bin sbin lib; do  # as on a system of today, also for packages that have files in /lib
    mkdir -p "$folder/usr/$directory"
    ln -s "usr/$directory" "$folder/$directory"
  done
  for package in "$state"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$folder" --keep-directory-symlink
  done
  rm "$folder/bin"  # from here on for launchers only
  mkdir "$folder/bin"
}

# launcher NAME COMMAND...: a program FOLDER/bin/NAME that runs a command with the libraries of the folder.
launcher() {
  local name=$1
  shift
  printf '#!/bin/sh\nroot=$(cd "$(dirname "$0")/.." && pwd)\n%s "$@"\n' "$*" > "$folder/bin/$name"
  chmod +x "$folder/bin/$name"
}

gcc_10() {
  use_suite bullseye amd64
  unpack {g++,gcc,cpp}-10-aarch64-linux-gnu binutils-aarch64-linux-gnu libstdc++{-10-dev,6}-arm64-cross \
    libgcc-{10-dev,s1}-arm64-cross libc6{,-dev}-arm64-cross linux-libc-dev-arm64-cross lib{atomic,gomp}1-arm64-cross \
    libisl23 libmpfr6 libmpc3 libgmp10
  rm "$folder/usr/lib/gcc-cross/aarch64-linux-gnu/10/lto1"  # 190 MB for -flto, which is not used
  # The linker's scripts name files of an installed compiler; another one may be installed on this machine.
  grep -l 'GNU ld script' "$folder"/usr/aarch64-linux-gnu/lib/*.so | xargs sed -i 's#/usr/aarch64-linux-gnu/lib/##g'
  local tool run='LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu exec $root/usr/bin/aarch64-linux-gnu-'
  for tool in gcc g++; do
    launcher aarch64-linux-gnu-$tool "$run$tool-10" '--sysroot="$root"'
  done
  for tool in ar as ld nm objcopy objdump ranlib readelf strip; do
    launcher aarch64-linux-gnu-$tool "$run$tool"
  done
  "$folder/bin/aarch64-linux-gnu-g++" --version | head -n 1
}

clang_9() {
  use_suite bullseye amd64
  unpack clang-9 lld-9 lib{clang-cpp9,llvm9,clang-common-9-dev,clang1-9,c++-9-dev,c++1-9,c++abi-9-dev,c++abi1-9} \
    libffi7 libedit2 libbsd0 libmd0 libtinfo6 libz3-4 libxml2 libicu67 liblzma5 zlib1g libc6-dev linux-libc-dev libgcc-10-dev
  local run='LD_LIBRARY_PATH=$root/usr/lib/llvm-9/lib:$root/usr/lib/x86_64-linux-gnu exec $root/usr/lib/llvm-9/bin/'
  launcher clang "${run}clang"
  launcher clang++ "${run}clang++" -stdlib=libc++
  "$folder/bin/clang++" --version | head -n 1
}

arm64_python() {
  local suite=$1 version=$2
  shift 2
  use_suite "$suite" arm64
  unpack_all "python$version-minimal" "libpython$version-stdlib" "libpython$version-dev" libstdc++6 "$@"
  launcher "python$version" 'exec $(command -v qemu-aarch64-static qemu-aarch64 | head -n 1) -L "$root"' \
    "\"\$root/usr/bin/python$version\""
  echo "Python $version for arm64"
}

pc_python() {
  local version=3.9
  use_suite bullseye amd64
  unpack "python$version-minimal" "libpython$version-"{minimal,stdlib} libssl1.1 libffi7 libmpdec3 libexpat1 zlib1g libbz2-1.0
  launcher "python$version" 'LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}' \
    "exec \"\$root/usr/bin/python$version\""
  # pip decides what else is needed by the Python that it runs on, so all of it is named here.
  "${PYTHON:-python3}" -m pip install -q --disable-pip-version-check --target "$folder/usr/lib/python3/dist-packages" \
    --python-version "$version" --only-binary=:all: --no-deps "build<1.3" "scikit-build-core<0.12" "cython<3.4" \
    "importlib-metadata<8" "packaging<26" pyproject_hooks pathspec zipp tomli typing-extensions exceptiongroup
  "$folder/bin/python$version" -c 'import Cython, build, scikit_build_core, sys; print("Python", sys.version.split()[0])'
}

if [ -e "$target" ]; then
  echo "$target: exists already; remove it first, or name another folder" >&2
  exit 1
fi
mkdir -p "$(dirname "$target")"
case $what in
  gcc-10) gcc_10 ;;
  clang-9) clang_9 ;;
  python3.9) arm64_python bullseye 3.9 python3-distutils ;;  # which pip wants there
  python3.11) arm64_python bookworm 3.11 ;;
  python3.13) arm64_python trixie 3.13 ;;
  pc-python3.9) pc_python ;;
  *) usage ;;
esac
mv "$folder" "$target"
