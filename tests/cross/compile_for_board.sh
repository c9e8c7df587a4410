#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A compiler for tests that run inside an emulated Python: "compile_for_board.sh COMPILER ARGUMENT...". What it links is for
# arm64, and a program gets its name from a script that emulates it, since the kernel here cannot start it.
# BOARD_EMULATOR: the emulator with its options. BOARD_ROOT: the folder of its libraries.
compiler=$1
shift
"$compiler" "$@" || exit
program=a.out
previous=
for argument in "$@"; do
  case $argument in
    -shared | -c | -E | --version) exit 0 ;;
  esac
  [ "$previous" != -o ] || program=$argument
  previous=$argument
done
mv "$program" "$program.arm64"
case $program in
  /*) ;;
  *) program=$PWD/$program ;;
esac
printf '#!/bin/sh\nexec %s -L %s %s "$@"\n' "$BOARD_EMULATOR" "$BOARD_ROOT" "$program.arm64" > "$program"
chmod +x "$program"
