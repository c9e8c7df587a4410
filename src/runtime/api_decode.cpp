// SPDX-License-Identifier: Apache-2.0
// The decode loop of several sessions of rkllm_ext.h: a pass over the weights, then each session's choice, again and
// again. Choices are made by the threads of the pass, a session each.
#include <exception>

#include "api_session.h"

using namespace rkllm;

namespace {

// The loop's sessions, and where their tokens are.
struct Company {
  RKLLMExtSession* const* sessions;
  int32_t* tokens;
  size_t n;
  std::vector<Session*> all;
  std::vector<std::exception_ptr> failures;  // of each session's choice
};

// What can be refused is, before anything is computed.
void check_company(const Company& company) {
  for (size_t i = 0; i < company.n; i++) {
    if (company.sessions[i]->session.is_aborted())
      throw Error(ErrorCode::ABORTED, rkllm::format("session %zu was aborted; all keep what was computed", i));
    check_step(*company.sessions[i], company.tokens[i], i, company.sessions[0]->executor.get());
  }
}

// tokens become those chosen; -1 where the choice failed.
void pass(Company& company, const uint32_t* const* masks) {
  Session::step(company.all.data(), company.tokens, int(company.n), [&](int first, int count, ThreadPool& pool) {
    pool.run(count, [&](int item, int) {
      const size_t i = size_t(first + item);
      try {
        company.tokens[i] = company.sessions[i]->choose(masks ? masks[i] : nullptr);
      } catch (...) {
        company.tokens[i] = -1;
        company.failures[i] = std::current_exception();
      }
    });
  });
}

void rethrow_first(const Company& company) {
  for (size_t i = 0; i < company.n; i++) {
    if (!company.failures[i]) continue;
    try {
      std::rethrow_exception(company.failures[i]);
    } catch (const Error& error) {
      throw Error(error.code(), rkllm::format("session %zu: %s", i, error.sentence().c_str()));
    }
  }
}

}  // namespace

extern "C" int rkllm_ext_session_decode(RKLLMExtSession* const* sessions, int32_t* tokens, size_t n,
                                        const uint32_t* const* masks, RKLLMExtChosen function, void* userdata) {
  return guard([&] {
    need(sessions && tokens && n > 0 && n <= 65536, "sessions and tokens must be given, 1 to 65536 of them");
    for (size_t i = 0; i < n; i++) need(sessions[i], "a session is NULL");
    const Held held(sessions, n);
    Company company = {sessions, tokens, n, {}, std::vector<std::exception_ptr>(n)};
    for (size_t i = 0; i < n; i++) {
      sessions[i]->session.clear_abort();
      company.all.push_back(&sessions[i]->session);
    }
    do {
      check_company(company);
      pass(company, masks);
      masks = nullptr;
      rethrow_first(company);
    } while (function && function(tokens, n, userdata) == 0);
  });
}
