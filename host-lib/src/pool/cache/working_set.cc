// SPDX-License-Identifier: Apache-2.0
//
// A working set is a text: a chunk's number on each line.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "pool/cache/template_cache.h"

namespace moult::host {
namespace {

constexpr size_t kMostSetBytes = 8 << 20;  // 256 GiB of pages, all touched

}  // namespace

std::vector<uint64_t> TemplateCache::WorkingSet(const std::string& digest, uint64_t chunks) const {
  const UniqueFd fd(open(Path(digest, ".set").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  std::string text;
  char piece[65536];
  while (fd.valid() && text.size() < kMostSetBytes) {
    const ssize_t n = read(fd.get(), piece, sizeof(piece));
    if (n <= 0) break;
    text.append(piece, static_cast<size_t>(n));
  }
  std::vector<uint64_t> set;
  std::set<uint64_t> seen;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    uint64_t chunk;
    if (absl::SimpleAtoi(line, &chunk) && chunk < chunks && seen.insert(chunk).second) set.push_back(chunk);
  }
  return set;
}

void TemplateCache::SetWorkingSet(const std::string& digest, const std::vector<uint64_t>& set) const {
  std::string text;
  for (const uint64_t chunk : set) absl::StrAppend(&text, chunk, "\n");
  // By rename, so that nobody reads half of it. A hint that cannot be written is none.
  const std::string path = Path(digest, ".set");
  const std::string part = absl::StrCat(path, ".", getpid(), ".part");
  const UniqueFd fd(open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return;
  const bool whole = write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!whole || rename(part.c_str(), path.c_str()) != 0) unlink(part.c_str());
}

}  // namespace moult::host
