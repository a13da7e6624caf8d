// SPDX-License-Identifier: Apache-2.0
#include "proc/fdinfo.h"

#include "absl/strings/escaping.h"
#include "moult/base/status.h"
#include "proc/text.h"

namespace moult::proc {
namespace {

// "(1, 500000000)"
bool ParseTimespec(Scanner& value, uint64_t* ns) {
  constexpr uint64_t kNsPerSecond = 1000000000;
  uint64_t seconds;
  uint64_t nanoseconds;
  return value.Literal('(') && value.Dec(&seconds) && value.Literal(',') && value.Dec(&nanoseconds) &&
         value.Literal(')') && value.AtEnd() && nanoseconds < kNsPerSecond &&
         !__builtin_mul_overflow(seconds, kNsPerSecond, ns) && !__builtin_add_overflow(*ns, nanoseconds, ns);
}

// "        5 events:       19 data: 7fffdeadbeef  pos:0 ino:5d sdev:f"; pos and on since 5.0.
bool ParseEpoll(Scanner& value, FdInfo& info) {
  EpollInfo& item = info.epoll.emplace_back();
  if (!value.Dec(&item.tfd) || !value.Blanks() || !value.Literal("events:") || !value.Hex(&item.events) ||
      !value.Blanks() || !value.Literal("data:") || !value.Hex(&item.data)) {
    return false;
  }
  if (value.Blanks() && value.AtEnd()) return true;
  return value.Literal("pos:") && value.Dec(&item.pos) && value.Blanks() && value.Literal("ino:") &&
         value.Hex(&item.ino) && value.Blanks() && value.Literal("sdev:") && value.Hex(&item.sdev) &&
         value.Blanks() && value.AtEnd();
}

bool IsHex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

// " fhandle-bytes:8 fhandle-type:1 f_handle:0102030405060708"
bool ParseFileHandle(Scanner& line, InotifyInfo& watch) {
  uint32_t size;
  std::string_view hex;
  if (!line.Literal("fhandle-bytes:") || !line.Hex(&size) || !line.Blanks() ||
      !line.Literal("fhandle-type:") || !line.Hex(&watch.fhandle_type) || !line.Blanks() ||
      !line.Literal("f_handle:") || !line.Word(&hex)) {
    return false;
  }
  if (hex.size() != size_t{size} * 2) return false;
  for (const char c : hex) {
    if (!IsHex(c)) return false;
  }
  watch.fhandle = absl::HexStringToBytes(ToAbsl(hex));
  return line.Blanks() && line.AtEnd();
}

// "inotify wd:1 ino:2af sdev:fe00000 mask:100 ignored_mask:0 fhandle-bytes:..."
bool ParseInotify(Scanner& line, FdInfo& info) {
  InotifyInfo& watch = info.inotify.emplace_back();
  if (!line.Literal("wd:") || !line.Hex(&watch.wd) || !line.Blanks() || !line.Literal("ino:") ||
      !line.Hex(&watch.ino) || !line.Blanks() || !line.Literal("sdev:") || !line.Hex(&watch.sdev) ||
      !line.Blanks() || !line.Literal("mask:") || !line.Hex(&watch.mask) || !line.Blanks() ||
      !line.Literal("ignored_mask:") || !line.Hex(&watch.ignored_mask)) {
    return false;
  }
  // The handle is left out where the file system cannot make one.
  if (line.Blanks() && line.AtEnd()) return true;
  return ParseFileHandle(line, watch);
}

EventFdInfo& EventFd(FdInfo& info) {
  if (!info.eventfd) info.eventfd.emplace();
  return *info.eventfd;
}

TimerFdInfo& TimerFd(FdInfo& info) {
  if (!info.timerfd) info.timerfd.emplace();
  return *info.timerfd;
}

bool ParsePos(Scanner& value, FdInfo& info) {
  // Signed in the kernel: /proc/PID/mem and the like have positions in the upper half.
  int64_t pos;
  if (!value.Dec(&pos) || !value.AtEnd()) return false;
  info.pos = static_cast<uint64_t>(pos);
  return true;
}

bool ParseSemaphore(Scanner& value, FdInfo& info) {
  unsigned semaphore;
  if (!value.Dec(&semaphore) || semaphore > 1 || !value.AtEnd()) return false;
  EventFd(info).semaphore = semaphore == 1;
  return true;
}

template <typename T>
bool ParseOptionalDec(Scanner& value, std::optional<T>& field) {
  T result;
  if (!value.Dec(&result) || !value.AtEnd()) return false;
  field = result;
  return true;
}

bool ParseSigmask(Scanner& value, FdInfo& info) {
  uint64_t mask;
  if (!value.Hex(&mask) || !value.AtEnd()) return false;
  info.sigmask = mask;
  return true;
}

using FieldHandler = bool (*)(Scanner& value, FdInfo& info);

constexpr struct {
  std::string_view key;
  FieldHandler handler;
} kFields[] = {
    {"pos", ParsePos},
    {"flags", [](Scanner& v, FdInfo& i) { return v.Oct(&i.flags) && v.AtEnd(); }},
    {"mnt_id", [](Scanner& v, FdInfo& i) { return v.Dec(&i.mnt_id) && v.AtEnd(); }},
    {"ino", [](Scanner& v, FdInfo& i) { return v.Dec(&i.ino) && v.AtEnd(); }},
    {"eventfd-count", [](Scanner& v, FdInfo& i) { return v.Hex(&EventFd(i).count) && v.AtEnd(); }},
    {"eventfd-id", [](Scanner& v, FdInfo& i) { return v.Dec(&EventFd(i).id) && v.AtEnd(); }},
    {"eventfd-semaphore", ParseSemaphore},
    {"tfd", ParseEpoll},
    {"clockid", [](Scanner& v, FdInfo& i) { return v.Dec(&TimerFd(i).clockid) && v.AtEnd(); }},
    {"ticks", [](Scanner& v, FdInfo& i) { return v.Dec(&TimerFd(i).ticks) && v.AtEnd(); }},
    {"settime flags", [](Scanner& v, FdInfo& i) { return v.Oct(&TimerFd(i).settime_flags) && v.AtEnd(); }},
    {"it_value", [](Scanner& v, FdInfo& i) { return ParseTimespec(v, &TimerFd(i).value_ns); }},
    {"it_interval", [](Scanner& v, FdInfo& i) { return ParseTimespec(v, &TimerFd(i).interval_ns); }},
    {"sigmask", ParseSigmask},
    {"Pid", [](Scanner& v, FdInfo& i) { return ParseOptionalDec(v, i.pidfd_pid); }},
    {"scm_fds", [](Scanner& v, FdInfo& i) { return ParseOptionalDec(v, i.scm_fds); }},
};

bool ParseLine(std::string_view line, FdInfo& info) {
  Scanner scanner(line);
  if (scanner.Literal("inotify ")) return ParseInotify(scanner, info);
  std::string_view key;
  std::string_view rest;
  if (!SplitKey(line, &key, &rest)) return true;
  for (const auto& [known, handler] : kFields) {
    if (known != key) continue;
    Scanner value(rest);
    return handler(value, info);
  }
  return true;
}

}  // namespace

absl::StatusOr<FdInfo> ParseFdInfo(std::string_view text) {
  FdInfo info;
  bool has_flags = false;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (constexpr std::string_view kLock = "lock:\t"; line.starts_with(kLock)) {
      absl::StatusOr<LockInfo> lock = ParseLock(line.substr(kLock.size()));
      if (!lock.ok()) return Malformed("fdinfo", lines.number(), line);
      info.locks.push_back(*lock);
      continue;
    }
    if (!ParseLine(line, info)) return Malformed("fdinfo", lines.number(), line);
    has_flags |= line.starts_with("flags:");
  }
  if (!has_flags) return Incomplete("fdinfo", "no flags line");
  return info;
}

}  // namespace moult::proc
