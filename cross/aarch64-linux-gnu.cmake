# SPDX-License-Identifier: Apache-2.0
# Toolchain file for boards with 64-bit Linux: cmake -DCMAKE_TOOLCHAIN_FILE=cross/aarch64-linux-gnu.cmake ...
#
# Variables, each also taken from the environment:
#   RKLLM_CROSS_PREFIX   what stands before gcc and g++: "aarch64-linux-gnu-", "/opt/gcc-arm-10.2-2020.11-x86_64-
#                        aarch64-none-linux-gnu/bin/aarch64-none-linux-gnu-", or the folder of such a toolchain.
#                        Without it, the first of aarch64-none-linux-gnu-g++ (Arm's), aarch64-linux-gnu-g++ (Debian's) on PATH.
#   RKLLM_CROSS_SUFFIX   what stands behind them: "-10" for Debian's aarch64-linux-gnu-g++-10
#   RKLLM_CROSS_SYSROOT  a folder with the board's headers and libraries, where the compiler's own are not to be used

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

foreach(variable RKLLM_CROSS_PREFIX RKLLM_CROSS_SUFFIX RKLLM_CROSS_SYSROOT)
  if(NOT DEFINED ${variable} AND DEFINED ENV{${variable}})
    set(${variable} "$ENV{${variable}}")
  endif()
endforeach()

if(IS_DIRECTORY "${RKLLM_CROSS_PREFIX}")
  file(GLOB found "${RKLLM_CROSS_PREFIX}/bin/aarch64-*-gnu-g++${RKLLM_CROSS_SUFFIX}")
  list(LENGTH found count)
  if(NOT count EQUAL 1)
    message(FATAL_ERROR "RKLLM_CROSS_PREFIX=${RKLLM_CROSS_PREFIX}: this folder has ${count} compilers "
                        "bin/aarch64-*-gnu-g++${RKLLM_CROSS_SUFFIX}; give the prefix itself, ending in -gnu-")
  endif()
  string(REGEX REPLACE "g\\+\\+[^/]*$" "" RKLLM_CROSS_PREFIX "${found}")
elseif(NOT RKLLM_CROSS_PREFIX)
  foreach(prefix aarch64-none-linux-gnu- aarch64-linux-gnu-)
    find_program(found_${prefix} ${prefix}g++${RKLLM_CROSS_SUFFIX} NO_CACHE)
    if(found_${prefix})
      set(RKLLM_CROSS_PREFIX ${prefix})
      break()
    endif()
  endforeach()
  if(NOT RKLLM_CROSS_PREFIX)
    message(FATAL_ERROR "no compiler for aarch64 on PATH: unpack gcc-arm-10.2-2020.11-x86_64-aarch64-none-linux-gnu and "
                        "set RKLLM_CROSS_PREFIX to its folder, or install g++-aarch64-linux-gnu (Debian)")
  endif()
endif()

set(CMAKE_C_COMPILER "${RKLLM_CROSS_PREFIX}gcc${RKLLM_CROSS_SUFFIX}")
set(CMAKE_CXX_COMPILER "${RKLLM_CROSS_PREFIX}g++${RKLLM_CROSS_SUFFIX}")
if(RKLLM_CROSS_SYSROOT)
  set(CMAKE_SYSROOT "${RKLLM_CROSS_SYSROOT}")
endif()

# Newer releases print only the major version for -dumpversion, older ones do not know -dumpfullversion.
execute_process(COMMAND "${CMAKE_CXX_COMPILER}" -dumpfullversion -dumpversion
                OUTPUT_VARIABLE version RESULT_VARIABLE status ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} does not run: set RKLLM_CROSS_PREFIX and RKLLM_CROSS_SUFFIX to a GCC for aarch64")
elseif(version VERSION_LESS 10.2)
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} is GCC ${version}; 10.2 or later is needed, for example "
                      "gcc-arm-10.2-2020.11-x86_64-aarch64-none-linux-gnu (RKLLM_CROSS_PREFIX chooses)")
endif()

# CMake's own trials of the compiler read this file again, and see these variables only if told to.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES RKLLM_CROSS_PREFIX RKLLM_CROSS_SUFFIX RKLLM_CROSS_SYSROOT)
# Programs (Python, Cython) are the building machine's; libraries and headers the board's.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
