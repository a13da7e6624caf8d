// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_BENCH_JSON_FILE_H_
#define MOULT_BENCH_JSON_FILE_H_

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace moult::bench {

// The exit code of a benchmark whose report goes to `path` as well; "": it does not.
inline int WriteJson(const std::string& path, const nlohmann::ordered_json& report) {
  if (path.empty()) return 0;
  std::ofstream file(path);
  file << report.dump(2) << "\n";
  if (file.flush()) return 0;
  std::fprintf(stderr, "moult-bench: write %s\n", path.c_str());
  return 1;
}

}  // namespace moult::bench

#endif  // MOULT_BENCH_JSON_FILE_H_
