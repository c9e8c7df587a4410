// SPDX-License-Identifier: Apache-2.0
// Settings by name and text, as rkllm_ext_set_option and rkllm_ext_session_set_option take them.
#pragma once

#include <string>

#include "handle.h"

namespace rkllm {

// They throw Error(INVALID_ARGUMENT) when the name is unknown or the value not possible; nothing has changed then.

// A setting of how prompts become tokens. Returns false when the name is of another setting.
bool set_prompt_option(PromptRules& rules, const std::string& name, const std::string& value);

// A setting of runs and sessions.
void set_run_option(RunSettings& settings, Executor& executor, const std::string& name, const std::string& value);

// One of these, or one of a handle.
void set_option(Runtime& runtime, const std::string& name, const std::string& value);

}  // namespace rkllm
