# SPDX-License-Identifier: Apache-2.0
# Toolchain file for Android on arm64: cmake -DCMAKE_TOOLCHAIN_FILE=cross/android-arm64.cmake ...
# It settles what rkllm_ext needs and includes the NDK's own toolchain file. NDK r21e or newer.
#
#   ANDROID_NDK       the unpacked NDK; else from the environment: ANDROID_NDK_HOME, ANDROID_NDK_ROOT, ANDROID_NDK
#   ANDROID_PLATFORM  oldest Android to run on, android-24 by default; 21 to 23 need an application that loads
#                     librkllmrt.so first, because their linker does not know RUNPATH
#   ANDROID_STL       c++_static by default: librkllmrt.so is one library with a C interface, and so brings its C++
#                     library inside and needs none from the application

if(NOT ANDROID_NDK)
  foreach(variable ANDROID_NDK_HOME ANDROID_NDK_ROOT ANDROID_NDK)
    if(NOT "$ENV{${variable}}" STREQUAL "")
      set(ANDROID_NDK "$ENV{${variable}}")
      break()
    endif()
  endforeach()
endif()
if(NOT ANDROID_NDK)
  message(FATAL_ERROR "no Android NDK: set ANDROID_NDK_HOME to the folder of an unpacked NDK, r21e or newer")
elseif(NOT EXISTS "${ANDROID_NDK}/build/cmake/android.toolchain.cmake" OR NOT EXISTS "${ANDROID_NDK}/source.properties")
  message(FATAL_ERROR "${ANDROID_NDK} is no Android NDK: it has no build/cmake/android.toolchain.cmake and source.properties")
endif()
file(STRINGS "${ANDROID_NDK}/source.properties" revision REGEX "^Pkg\\.Revision *=")
string(REGEX REPLACE "^[^=]*= *" "" revision "${revision}")
if(NOT revision VERSION_GREATER_EQUAL 21.4)
  message(FATAL_ERROR "${ANDROID_NDK} is Android NDK ${revision}; r21e (21.4) or newer is needed")
endif()

if(ANDROID_ABI AND NOT ANDROID_ABI STREQUAL "arm64-v8a")
  message(FATAL_ERROR "ANDROID_ABI=${ANDROID_ABI}: this file builds for arm64-v8a")
endif()
set(ANDROID_ABI arm64-v8a)
if(NOT ANDROID_PLATFORM)
  set(ANDROID_PLATFORM android-24)
endif()
string(REGEX REPLACE "^android-" "" level "${ANDROID_PLATFORM}")
if(NOT level MATCHES "^[0-9]+$" OR level LESS 21)
  message(FATAL_ERROR "ANDROID_PLATFORM=${ANDROID_PLATFORM}: android-21 or later is needed, 64-bit Android begins there")
elseif(level LESS 24)
  message(WARNING "ANDROID_PLATFORM=${ANDROID_PLATFORM}: before 24 the linker ignores RUNPATH $ORIGIN, so the application "
                  "has to load librkllmrt.so before anything that needs it")
endif()
if(NOT ANDROID_STL)
  set(ANDROID_STL c++_static)
endif()
set(ANDROID_LD lld)  # r21's own choice is another linker

include("${ANDROID_NDK}/build/cmake/android.toolchain.cmake")

# Pages of 16 KB. Before the include this would be lost: the NDK's file sets these variables itself. In its newer mode it
# leaves them to CMake, which makes them out of *_INIT. CMake reads this file several times.
set(pages "-Wl,-z,max-page-size=16384")
foreach(kind SHARED MODULE EXE)
  set(flags CMAKE_${kind}_LINKER_FLAGS)
  if(NOT DEFINED ${flags})
    set(flags CMAKE_${kind}_LINKER_FLAGS_INIT)
  endif()
  if(NOT " ${${flags}} " MATCHES " ${pages} ")
    string(APPEND ${flags} " ${pages}")
  endif()
endforeach()

# CMake's own trials of the compiler read this file again, and see these variables only if told to.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ANDROID_NDK ANDROID_PLATFORM ANDROID_STL)
