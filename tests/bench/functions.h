// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_BENCH_FUNCTIONS_H_
#define MOULT_BENCH_FUNCTIONS_H_

#include <string>
#include <vector>

#include "guest.h"
#include "moult/base/status.h"

namespace moult::bench {

// The functions of tests/demo: python, node, java. Each answers to GET /?seed=N at tcp:8080.

// kInvalidArgument: there is no such function.
absl::StatusOr<std::vector<std::string>> CommandOf(const std::string& function);
// What `moultctl vm` needs for it, from the folder of their sources; what is compiled goes to `folder`. kUnavailable: it
// cannot be compiled here.
absl::Status AddFunction(const std::string& function, const std::string& sources, const std::string& folder,
                         std::vector<std::string>* words);
// Its id, once it answers.
absl::StatusOr<std::string> StartFunction(const Guest& guest, const std::string& function);
// `us` grows by what the answer took.
absl::StatusOr<std::string> Answer(const Guest& guest, const std::string& function, int seed, double* us);

}  // namespace moult::bench

#endif  // MOULT_BENCH_FUNCTIONS_H_
