# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for an Android NDK: its files as far as cross/android-arm64.cmake looks at them."""

from __future__ import annotations

from pathlib import Path

#: What the NDK's file does with what it is told, reduced to what shows in the variables.
NDK_FILE = """
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(NDK_ABI ${ANDROID_ABI})
set(NDK_PLATFORM ${ANDROID_PLATFORM})
set(NDK_STL ${ANDROID_STL})
set(NDK_LD ${ANDROID_LD})
"""
#: Its older mode also owns the linker's flags, and loses what was set before.
NDK_FLAGS = """
foreach(kind SHARED MODULE EXE)
  set(CMAKE_${kind}_LINKER_FLAGS "" CACHE STRING "")
  set(CMAKE_${kind}_LINKER_FLAGS "-Wl,--build-id ${CMAKE_${kind}_LINKER_FLAGS}")
endforeach()
"""
#: One that compiles: GCC instead of clang, glibc instead of bionic, and the C++ library inside as c++_static puts it.
NDK_COMPILER = """
set(ANDROID TRUE)
set(CMAKE_C_COMPILER "@PREFIX@gcc")
set(CMAKE_CXX_COMPILER "@PREFIX@g++")
if(ANDROID_STL STREQUAL "c++_static")
  foreach(kind SHARED MODULE EXE)
    string(APPEND CMAKE_${kind}_LINKER_FLAGS " -static-libstdc++ -static-libgcc")
  endforeach()
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
"""


def make_ndk(folder: Path, revision: str = "21.4.7075529", text: str = NDK_FILE + NDK_FLAGS) -> Path:
    """Write what the toolchain file looks at in an NDK."""
    (folder / "build" / "cmake").mkdir(parents=True)
    (folder / "build" / "cmake" / "android.toolchain.cmake").write_text(text)
    (folder / "source.properties").write_text(f"Pkg.Desc = Android NDK\nPkg.Revision = {revision}\n")
    return folder


def make_compiling_ndk(folder: Path, prefix: str) -> Path:
    """Write a stand-in whose compilers are those of a GCC for arm64."""
    return make_ndk(folder, text=NDK_FILE + NDK_FLAGS + NDK_COMPILER.replace("@PREFIX@", prefix))
