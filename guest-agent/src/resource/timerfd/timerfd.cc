// SPDX-License-Identifier: Apache-2.0
#include "resource/timerfd/timerfd.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "proc/fdinfo.h"
#include "proc/read.h"

namespace moult::engine {
namespace {

constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS, CONFIG_CHECKPOINT_RESTORE

timespec FromNs(uint64_t ns) { return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)}; }

}  // namespace

bool MatchesTimerFd(const OpenDescription& description) { return description.info.timerfd.has_value(); }

absl::Status CaptureTimerFd(CaptureContext&, const OpenDescription& description, image::OpenFileT& file) {
  proc::TimerFdInfo info = *description.info.timerfd;
  // Of a repeating timer that was not read the kernel counts the first expiry only, until it is asked.
  if (info.interval_ns != 0 && info.ticks != 0) {
    itimerspec unused{};
    if (timerfd_gettime(description.fd, &unused) < 0) return ErrnoStatus("timerfd_gettime");
    MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat("/proc/self/fdinfo/", description.fd)));
    MOULT_ASSIGN_OR_RETURN(const proc::FdInfo counted, proc::ParseFdInfo(text));
    if (!counted.timerfd.has_value()) return absl::InternalError("its fdinfo is no timer's any more");
    info = *counted.timerfd;
  }
  image::TimerFdT resource;
  resource.clock = info.clockid;
  resource.settime_flags = info.settime_flags;
  resource.interval_ns = info.interval_ns;
  resource.remaining_ns = info.value_ns;
  resource.expirations = info.ticks;
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> RestoreTimerFd(RestoreContext& context, uint32_t index) {
  const auto& resource = *context.open_file(index).resource.AsTimerFd();
  UniqueFd fd(timerfd_create(resource.clock, TFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("timerfd_create with clock ", resource.clock));
  // What remained at capture remains now, also of a timer that was set to a point in time: that point moves by
  // as long as the process did not exist.
  itimerspec value{FromNs(resource.interval_ns), FromNs(resource.remaining_ns)};
  // A repeating timer that expired unread stands still until it is read: it expires here once, too.
  const bool expired = resource.remaining_ns == 0 && resource.interval_ns != 0 && resource.expirations != 0;
  if (expired) value.it_value.tv_nsec = 1;
  int flags = 0;
  if ((resource.settime_flags & TFD_TIMER_ABSTIME) != 0 && resource.remaining_ns != 0) {
    timespec now{};
    clock_gettime(resource.clock, &now);
    value.it_value = FromNs(resource.remaining_ns + static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec));
    flags = static_cast<int>(resource.settime_flags);
  }
  if ((resource.remaining_ns != 0 || resource.interval_ns != 0) && timerfd_settime(fd.get(), flags, &value, nullptr) < 0) {
    return ErrnoStatus("timerfd_settime");
  }
  pollfd readable{fd.get(), POLLIN, 0};
  if (expired) poll(&readable, 1, 1000);
  if (resource.expirations != 0) {
    const uint64_t ticks = resource.expirations;
    if (ioctl(fd.get(), kSetTicks, &ticks) < 0) return ErrnoStatus("set the timerfd's expirations (needs CONFIG_CHECKPOINT_RESTORE)");
  }
  return fd;
}

}  // namespace moult::engine
