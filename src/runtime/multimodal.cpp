// SPDX-License-Identifier: Apache-2.0
#include "multimodal.h"

#include <algorithm>
#include <numeric>

#include "error.h"

namespace rkllm {
namespace {

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> pieces;
  size_t begin = 0;
  for (size_t at; (at = text.find(separator, begin)) != std::string::npos; begin = at + separator.size())
    pieces.push_back(text.substr(begin, at - begin));
  pieces.push_back(text.substr(begin));
  return pieces;
}

std::vector<int64_t> shares(size_t n_images, const std::vector<int64_t>& counts, int64_t n_embedded) {
  const auto say = [](const char* what, long long a, long long b) {
    throw Error(ErrorCode::INVALID_ARGUMENT, format(what, a, b));
  };
  if (n_images == 0)
    say("the prompt has %lld <image> placeholders for %lld image tokens; write <image> where the image belongs", 0,
        n_embedded);
  if (counts.empty()) {
    if (n_embedded < 1 || n_embedded % int64_t(n_images))
      say("%lld image tokens cannot be shared by %lld <image> placeholders; give as many for each, or the "
          "option image_tokens",
          n_embedded, static_cast<long long>(n_images));
    return std::vector<int64_t>(n_images, n_embedded / int64_t(n_images));
  }
  if (counts.size() != n_images)
    say("image_tokens names %lld images, but the prompt has %lld <image> placeholders",
        static_cast<long long>(counts.size()), static_cast<long long>(n_images));
  const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t(0));
  if (sum != n_embedded) say("image_tokens adds up to %lld, but there are %lld image tokens", sum, n_embedded);
  return counts;
}

}  // namespace

std::vector<int32_t> multimodal_ids(const Tokenizer& tokenizer, const std::string& prompt, const ImageTags& tags,
                                    const std::vector<int64_t>& counts, int64_t n_embedded) {
  const std::vector<std::string> pieces = split(prompt, kImagePlaceholder);
  const std::vector<int64_t> images = shares(pieces.size() - 1, counts, n_embedded);

  // A content that is a token of its own stands in the text, so that what is around it is read as it would be around
  // that.
  const int32_t content = tags.content.empty() ? -1 : tokenizer.id_of(tags.content);
  if (content >= 0 && tokenizer.is_special(content)) {
    std::string text = pieces[0];
    for (size_t i = 0; i < images.size(); i++) {
      text += tags.start;
      for (int64_t n = 0; n < images[i]; n++) text += tags.content;
      text += tags.end + pieces[i + 1];
    }
    std::vector<int32_t> ids = tokenizer.encode(text, true);
    if (std::count(ids.begin(), ids.end(), content) == n_embedded) {
      std::replace(ids.begin(), ids.end(), content, -1);
      return ids;
    }
  }
  std::vector<int32_t> ids;
  for (size_t i = 0; i < pieces.size(); i++) {
    const std::string text = (i ? tags.end : "") + pieces[i] + (i < images.size() ? tags.start : "");
    const std::vector<int32_t> tokens = tokenizer.encode(text, true);
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    if (i < images.size()) ids.insert(ids.end(), size_t(images[i]), -1);
  }
  return ids;
}

}  // namespace rkllm
