// SPDX-License-Identifier: Apache-2.0
#include "stop.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace rkllm {
namespace {

// How many of the last bytes of the text are a beginning of the stop string, all of it not counted.
size_t held_by(const std::string& text, const std::string& stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; n--)
    if (text.compare(text.size() - n, n, stop, 0, n) == 0) return n;
  return 0;
}

}  // namespace

void check_stops(const std::vector<std::string>& stops) {
  if (stops.size() > kMostStops)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("there are %zu stop strings, but at most %zu are possible", stops.size(), kMostStops));
  for (const std::string& stop : stops) {
    if (stop.empty()) throw Error(ErrorCode::INVALID_ARGUMENT, "a stop string is empty; give at least one character");
    if (stop.size() > kLongestStop)
      throw Error(ErrorCode::INVALID_ARGUMENT, format("a stop string has %zu bytes, but at most %zu are possible",
                                                      stop.size(), kLongestStop));
  }
}

std::string StopMatcher::push(const std::string& text) {
  if (stopped_) return "";
  if (stops_.empty()) return text;
  std::string all = std::exchange(held_, "") + text;
  size_t begin = all.npos, end = all.npos;
  for (const std::string& stop : stops_) {
    const size_t at = all.find(stop);
    if (at == all.npos) continue;
    const size_t its_end = at + stop.size();
    if (its_end < end || (its_end == end && at < begin)) begin = at, end = its_end;
  }
  stopped_ = end != all.npos;
  if (!stopped_) {
    size_t n = 0;
    for (const std::string& stop : stops_) n = std::max(n, held_by(all, stop));
    begin = all.size() - n;
    held_ = all.substr(begin);
  }
  all.resize(begin);
  return all;
}

std::string StopMatcher::finish() { return std::exchange(held_, ""); }

}  // namespace rkllm
