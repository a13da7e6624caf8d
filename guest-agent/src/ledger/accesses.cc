// SPDX-License-Identifier: Apache-2.0
#include "ledger/accesses.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "image/window.h"
#include "moult/base/page.h"
#include "proc/maps.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

constexpr uint32_t kSince = 4;                // the driver's version that has MOULT_YOUNG
constexpr uint64_t kGapAsked = 64;            // pages that are asked for although they are not there: a span costs more
constexpr uint64_t kEverything = 1ull << 57;  // bytes: no address of a process is as high
constexpr char kClearAll[] = "1";             // of clear_refs: all pages (filesystems/proc.rst)

absl::Status Gone(pid_t pid) { return absl::NotFoundError(absl::StrCat("process ", pid, " has gone")); }

// Reads `pid`'s smaps: a mapping of which any page was touched counts as a whole.
absl::Status LookByMapping(pid_t pid, absl::Span<Mapping> pages) {
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat("/proc/", pid, "/smaps")));
  MOULT_ASSIGN_OR_RETURN(const std::vector<proc::SmapsEntry> mappings, proc::ParseSmaps(text));
  auto at = mappings.begin();
  for (Mapping& page : pages) {
    while (at != mappings.end() && at->end <= page.va) ++at;
    // One that has come or gone meanwhile is as good as touched.
    page.accessed = at == mappings.end() || at->start > page.va || at->referenced != 0;
  }
  return absl::OkStatus();
}

}  // namespace

Accesses::Accesses(Through through) {
  if (through == Through::kKernel) return;
  if (auto driver = engine::OpenDriver(kSince); driver.ok()) driver_ = *std::move(driver);
}

absl::Status Accesses::Forget(pid_t pid) const {
  if (driver_.valid()) {
    const moult_span all{0, kEverything};
    moult_young call{};
    call.size = sizeof(call);
    call.flags = MOULT_YOUNG_CLEAR;
    call.pid = pid;
    call.count = 1;
    call.spans = reinterpret_cast<uint64_t>(&all);
    if (ioctl(driver_.get(), MOULT_YOUNG, &call) == 0) return absl::OkStatus();
    if (errno == ESRCH) return Gone(pid);
    return ErrnoStatus(absl::StrCat("clear what process ", pid, " has touched"));
  }
  const std::string path = absl::StrCat("/proc/", pid, "/clear_refs");
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return errno == ENOENT ? Gone(pid) : ErrnoStatus(absl::StrCat("open ", path));
  if (write(fd.get(), kClearAll, 1) == 1) return absl::OkStatus();
  return errno == ESRCH ? Gone(pid) : ErrnoStatus(absl::StrCat("write ", path));
}

Asked AskFor(absl::Span<const Mapping> pages) {
  Asked asked;
  uint64_t bits = 0;
  for (const Mapping& page : pages) {
    moult_span* last = asked.spans.empty() ? nullptr : &asked.spans.back();
    if (last != nullptr && page.va < last->va + last->length) {  // of two mappings that were there one after the other
      ++asked.pages;
      continue;
    }
    const uint64_t gap = last != nullptr ? (page.va - last->va - last->length) / kPage : UINT64_MAX;
    const bool near = gap <= kGapAsked;
    const uint64_t more = near ? gap + 1 : 1;
    if (bits + more > MOULT_MAX_YOUNG || (!near && asked.spans.size() == MOULT_MAX_RANGES)) break;
    bits += more;
    if (near) {
      last->length += more * kPage;
    } else {
      asked.spans.push_back({page.va, kPage});
    }
    ++asked.pages;
  }
  return asked;
}

absl::Status Accesses::LookByPage(pid_t pid, absl::Span<Mapping> pages) const {
  while (!pages.empty()) {
    const Asked asked = AskFor(pages);
    uint64_t bits = 0;
    for (const moult_span& span : asked.spans) bits += span.length / kPage;
    std::vector<uint64_t> bitmap((bits + 63) / 64);
    moult_young call{};
    call.size = sizeof(call);
    call.pid = pid;
    call.count = static_cast<uint32_t>(asked.spans.size());
    call.spans = reinterpret_cast<uint64_t>(asked.spans.data());
    call.bitmap = reinterpret_cast<uint64_t>(bitmap.data());
    if (ioctl(driver_.get(), MOULT_YOUNG, &call) < 0)
      return errno == ESRCH ? Gone(pid) : ErrnoStatus(absl::StrCat("ask what process ", pid, " has touched"));
    auto span = asked.spans.begin();
    uint64_t first = 0;  // the bit of its first page
    for (Mapping& page : pages.first(asked.pages)) {
      for (; page.va >= span->va + span->length; ++span) first += span->length / kPage;
      const uint64_t bit = first + (page.va - span->va) / kPage;
      page.accessed = (bitmap[bit / 64] >> (bit % 64) & 1) != 0;
    }
    pages.remove_prefix(asked.pages);
  }
  return absl::OkStatus();
}

absl::Status Accesses::Forget(const Function& function) const {
  MOULT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, function.Processes());
  for (const pid_t pid : pids) {
    const absl::Status status = Forget(pid);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status Accesses::Look(pid_t pid, absl::Span<Mapping> pages) const {
  std::sort(pages.begin(), pages.end(), [](const Mapping& a, const Mapping& b) { return a.va < b.va; });
  return driver_.valid() ? LookByPage(pid, pages) : LookByMapping(pid, pages);
}

}  // namespace moult::agent
