// SPDX-License-Identifier: Apache-2.0
// Log lines as the vendor's library prints them: on stderr, or through a hook, under RKLLM_LOG_LEVEL (0 nothing,
// 1 the stage table after each run, 2 parameters, prompts and tokens as well).
#pragma once

#include <string>

namespace rkllm {

using LogHook = void (*)(const char* line, void* userdata);

// The level that read_log_level found in the environment; rkllm_init reads it.
int log_level();
void read_log_level();

void set_log_hook(LogHook hook, void* userdata);

// Print "I rkllm: <text>" when the level is at least that; severity is I, W or E. Without memory for the line there
// is none.
void log(int level, char severity, const char* text) noexcept;
inline void log(int level, char severity, const std::string& text) noexcept { log(level, severity, text.c_str()); }

}  // namespace rkllm
