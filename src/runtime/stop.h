// SPDX-License-Identifier: Apache-2.0
// Stop strings: text in which a run ends, wherever tokens cut it.
#pragma once

#include <string>
#include <vector>

namespace rkllm {

constexpr size_t kMostStops = 64;
constexpr size_t kLongestStop = 1024;  // bytes

// Throws Error(INVALID_ARGUMENT) when there are too many, or one is empty or too long.
void check_stops(const std::vector<std::string>& stops);

// Reads a text piece by piece and says how much of it may be delivered. The first stop string to be complete ends the
// text; of several that end at the same byte the longest counts. So the result does not depend on how the text is cut.
// Used by one thread at a time.
class StopMatcher {
 public:
  explicit StopMatcher(const std::vector<std::string>& stops) : stops_(stops) {}

  // Return what may be delivered now. What could be the beginning of a stop string is held back; a stop string and what
  // follows it are dropped.
  std::string push(const std::string& text);

  // Return what is held back: the text has ended without a stop string.
  std::string finish();

  bool stopped() const { return stopped_; }
  bool holding() const { return !held_.empty(); }

 private:
  std::vector<std::string> stops_;
  std::string held_;  // shorter than the longest stop string
  bool stopped_ = false;
};

}  // namespace rkllm
