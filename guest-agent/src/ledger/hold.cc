// SPDX-License-Identifier: Apache-2.0
#include "ledger/hold.h"

#include <fcntl.h>
#include <linux/moult.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "image/window.h"
#include "moult/base/page.h"

namespace moult::agent {
namespace {

constexpr int kAttempts = 5;
constexpr uint32_t kListed = 4096;  // runs in one call
constexpr useconds_t kPauseMicros = 20'000;

// As many runs and frames as one call takes, from `runs[*next]` on, of which `*done` bytes were taken before.
std::vector<moult_run> TakePiece(const std::vector<FrameRun>& runs, size_t* next, uint64_t* done) {
  std::vector<moult_run> piece;
  uint64_t frames = 0;
  while (*next < runs.size() && piece.size() < MOULT_MAX_RANGES && frames < MOULT_MAX_HOLD) {
    const FrameRun& run = runs[*next];
    const uint64_t length = std::min(run.length - *done, (MOULT_MAX_HOLD - frames) * kPage);
    piece.push_back({run.gpa + *done, length});
    frames += length / kPage;
    *done += length;
    if (*done == run.length) {
      ++*next;
      *done = 0;
    }
  }
  return piece;
}

// Whether all of `wanted` is in `held`; each is rising and disjoint.
bool Contains(const std::vector<FrameRun>& held, const std::vector<FrameRun>& wanted) {
  auto at = held.begin();
  for (const FrameRun& run : wanted) {
    while (at != held.end() && at->gpa + at->length <= run.gpa) ++at;
    if (at == held.end() || at->gpa > run.gpa || at->gpa + at->length < run.gpa + run.length) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<FrameHold> FrameHold::Open() {
  MOULT_RETURN_IF_ERROR(engine::ListWindows().status());
  UniqueFd device(open(engine::kWindowDevice, O_RDWR | O_CLOEXEC));
  if (!device.valid()) return ErrnoStatus(absl::StrCat("open ", engine::kWindowDevice));
  return FrameHold(std::move(device));
}

absl::StatusOr<std::vector<FrameRun>> FrameHold::Hold(const std::vector<FrameRun>& runs) {
  std::vector<uint64_t> frames;
  size_t next = 0;
  uint64_t done = 0;
  while (next < runs.size()) {
    const std::vector<moult_run> piece = TakePiece(runs, &next, &done);
    std::vector<uint64_t> asked;
    for (const moult_run& run : piece) {
      for (uint64_t at = 0; at < run.length; at += kPage) asked.push_back((run.gpa + at) / kPage);
    }
    std::vector<uint64_t> bitmap((asked.size() + 63) / 64);
    moult_hold call{};
    call.size = sizeof(call);
    call.count = static_cast<uint32_t>(piece.size());
    call.runs = reinterpret_cast<uint64_t>(piece.data());
    call.bitmap = reinterpret_cast<uint64_t>(bitmap.data());
    if (ioctl(device_.get(), MOULT_HOLD, &call) < 0) return ErrnoStatus("hold the function's page frames");
    for (size_t i = 0; i < asked.size(); ++i) {
      if ((bitmap[i / 64] >> (i % 64) & 1) != 0) frames.push_back(asked[i]);
    }
  }
  return MergeFrames(std::move(frames));
}

absl::Status FrameHold::Keep(pid_t pid) {
  moult_keep call{};
  call.size = sizeof(call);
  call.pid = pid;
  if (ioctl(device_.get(), MOULT_KEEP, &call) == 0) return absl::OkStatus();
  if (errno == ESRCH) return absl::NotFoundError(absl::StrCat("process ", pid, " has no memory any more"));
  return ErrnoStatus(absl::StrCat("keep the memory of process ", pid));
}

absl::StatusOr<std::vector<FrameRun>> FrameHold::ListKept() {
  std::vector<FrameRun> all;
  std::vector<moult_run> some(kListed);
  moult_list call{};
  call.size = sizeof(call);
  call.capacity = kListed;
  call.runs = reinterpret_cast<uint64_t>(some.data());
  for (int attempt = 0; call.index != MOULT_LIST_END;) {
    if (ioctl(device_.get(), MOULT_LIST, &call) < 0) {
      // Somebody looks at that memory through /proc just now, or the kernel moves it.
      if ((errno != EBUSY && errno != EAGAIN) || ++attempt == kAttempts)
        return ErrnoStatus("list what the function had in memory");
      usleep(kPauseMicros);
      continue;
    }
    for (uint32_t i = 0; i < call.count; ++i) all.push_back({some[i].gpa, some[i].length});
  }
  return all;
}

absl::Status FrameHold::Release() {
  if (ioctl(device_.get(), MOULT_RELEASE) < 0) return ErrnoStatus("release what the function had in memory");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<FrameRun>> HoldWhatIsFound(
    const std::function<absl::StatusOr<std::vector<FrameRun>>()>& find,
    const std::function<absl::StatusOr<std::vector<FrameRun>>(const std::vector<FrameRun>&)>& hold) {
  MOULT_ASSIGN_OR_RETURN(std::vector<FrameRun> found, find());
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    MOULT_ASSIGN_OR_RETURN(const std::vector<FrameRun> held, hold(found));
    // One that was being moved was in neither place for a moment: so the same must be found twice.
    MOULT_ASSIGN_OR_RETURN(std::vector<FrameRun> again, find());
    if (again == found && Contains(held, found)) return found;
    found = std::move(again);
  }
  return absl::AbortedError(
      "the kernel moves pages of the function, or does not let them be held; try again");
}

}  // namespace moult::agent
