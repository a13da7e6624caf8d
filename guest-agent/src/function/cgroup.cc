// SPDX-License-Identifier: Apache-2.0
#include "function/cgroup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

constexpr uint64_t kCpuPeriodUs = 100'000;

absl::Status WriteFile(const std::string& path, const std::string& text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  if (write(fd.get(), text.data(), text.size()) < 0)
    return ErrnoStatus(absl::StrCat("write \"", text, "\" to ", path));
  return absl::OkStatus();
}

// The value of `key` in a file of "key value" lines.
uint64_t Counter(const std::string& text, absl::string_view key) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(' ', 1));
    uint64_t value = 0;
    if (parts.first == key && absl::SimpleAtoi(parts.second, &value)) return value;
  }
  return 0;
}

absl::Status LimitOne(const std::string& folder, const char* file, const std::string& value) {
  const absl::Status status = WriteFile(absl::StrCat(folder, "/", file), value);
  if (!absl::IsNotFound(status)) return status;
  return absl::FailedPreconditionError(
      absl::StrCat("set ", file,
                   ": this guest's cgroup v2 has not the controller; boot it with cgroup v2 "
                   "alone (systemd.unified_cgroup_hierarchy=1), or run the function without that limit"));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> PrepareCgroupRoot(const std::string& root) {
  const std::string parent = root.substr(0, root.rfind('/'));
  struct statfs fs {};
  if (statfs(parent.c_str(), &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC) {
    return absl::FailedPreconditionError(absl::StrCat(
        parent,
        " is not cgroup v2; mount it there, set cgroup_root to where it is, or set require_cgroup to false"));
  }
  if (mkdir(root.c_str(), 0755) < 0 && errno != EEXIST) {
    return absl::FailedPreconditionError(absl::StrCat(
        "make ", root, ": ", ErrnoName(errno), "; mount cgroup v2 writable, or set require_cgroup to false"));
  }
  MOULT_ASSIGN_OR_RETURN(const std::string available,
                         proc::ReadFile(absl::StrCat(parent, "/cgroup.controllers")));
  std::vector<std::string> usable;
  for (const char* controller : {"memory", "cpu", "pids"}) {
    const std::vector<std::string> have = absl::StrSplit(absl::StripAsciiWhitespace(available), ' ');
    if (std::find(have.begin(), have.end(), controller) == have.end()) continue;
    const std::string text = absl::StrCat("+", controller);
    // The parent may have processes of its own: then the kernel refuses, and there are no limits to be had.
    if (WriteFile(absl::StrCat(parent, "/cgroup.subtree_control"), text).ok() &&
        WriteFile(absl::StrCat(root, "/cgroup.subtree_control"), text).ok())
      usable.push_back(controller);
  }
  return usable;
}

absl::StatusOr<std::unique_ptr<Cgroup>> Cgroup::Open(const std::string& root, const std::string& name) {
  std::unique_ptr<Cgroup> group(new Cgroup(absl::StrCat(root, "/", name)));
  if (mkdir(group->path_.c_str(), 0755) < 0 && errno != EEXIST)
    return ErrnoStatus(absl::StrCat("make cgroup ", group->path_));
  group->folder_.Reset(open(group->path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!group->folder_.valid()) return ErrnoStatus(absl::StrCat("open cgroup ", group->path_));
  return group;
}

absl::Status Cgroup::Limit(const Limits& limits) const {
  if (limits.memory != 0) {
    MOULT_RETURN_IF_ERROR(LimitOne(path_, "memory.max", absl::StrCat(limits.memory)));
    // All of the function or nothing: one killed thread group of several is no function any more.
    (void)WriteFile(absl::StrCat(path_, "/memory.oom.group"), "1");
  }
  if (limits.cpu_milli != 0) {
    const uint64_t quota = std::max<uint64_t>(1000, limits.cpu_milli * kCpuPeriodUs / 1000);
    MOULT_RETURN_IF_ERROR(LimitOne(path_, "cpu.max", absl::StrCat(quota, " ", kCpuPeriodUs)));
  }
  // The sandbox's init counts, too.
  if (limits.pids != 0)
    MOULT_RETURN_IF_ERROR(LimitOne(path_, "pids.max", absl::StrCat(uint64_t{limits.pids} + 1)));
  return absl::OkStatus();
}

absl::Status Cgroup::Add(pid_t pid) const {
  return WriteFile(absl::StrCat(path_, "/cgroup.procs"), absl::StrCat(pid));
}

absl::Status Cgroup::Freeze(std::chrono::steady_clock::time_point deadline) const {
  const std::string events = absl::StrCat(path_, "/cgroup.events");
  const UniqueFd fd(open(events.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", events));
  MOULT_RETURN_IF_ERROR(WriteFile(absl::StrCat(path_, "/cgroup.freeze"), "1"));
  for (;;) {
    char text[256];
    const ssize_t n = pread(fd.get(), text, sizeof(text), 0);
    if (n < 0) return ErrnoStatus(absl::StrCat("read ", events));
    if (Counter(std::string(text, static_cast<size_t>(n)), "frozen") == 1) return absl::OkStatus();
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) {
      (void)Thaw();
      return absl::DeadlineExceededError(
          absl::StrCat("freeze ", path_, ": a process did not stop in time (it may wait for a device)"));
    }
    pollfd poll_fd{fd.get(), POLLPRI, 0};  // the kernel notifies changes of cgroup.events
    poll(&poll_fd, 1, static_cast<int>(left));
  }
}

absl::Status Cgroup::Thaw() const { return WriteFile(absl::StrCat(path_, "/cgroup.freeze"), "0"); }

bool Cgroup::IsFrozen() const {
  auto text = proc::ReadFile(absl::StrCat(path_, "/cgroup.events"));
  return text.ok() && Counter(*text, "frozen") == 1;
}

absl::StatusOr<std::vector<pid_t>> Cgroup::Processes() const {
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat(path_, "/cgroup.procs")));
  std::vector<pid_t> pids;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(line, &pid)) return absl::DataLossError(absl::StrCat(path_, "/cgroup.procs: \"", line, "\""));
    pids.push_back(pid);
  }
  return pids;
}

uint64_t Cgroup::MemoryBytes() const {
  auto text = proc::ReadFile(absl::StrCat(path_, "/memory.current"));
  uint64_t bytes = 0;
  return text.ok() && absl::SimpleAtoi(*text, &bytes) ? bytes : 0;
}

MemoryUse Cgroup::Use() const {
  const auto text = proc::ReadFile(absl::StrCat(path_, "/memory.stat"));
  if (!text.ok()) return {};
  MemoryUse use;
  use.anon = Counter(*text, "anon");
  use.shmem = Counter(*text, "shmem");
  use.file = Counter(*text, "file");
  use.file -= std::min(use.file, use.shmem);
  use.kernel = Counter(*text, "kernel") + Counter(*text, "sock");
  use.faults = Counter(*text, "pgfault");
  return use;
}

absl::StatusOr<uint64_t> Cgroup::SharedMemoryBytes() const {
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat(path_, "/memory.stat")));
  return Counter(text, "shmem");
}

bool Cgroup::SawOutOfMemory() const {
  auto text = proc::ReadFile(absl::StrCat(path_, "/memory.events"));
  return text.ok() && Counter(*text, "oom_kill") != 0;
}

bool Cgroup::Remove() const {
  if (rmdir(path_.c_str()) == 0 || errno == ENOENT) return true;
  (void)WriteFile(absl::StrCat(path_, "/cgroup.kill"), "1");  // since 5.14
  return rmdir(path_.c_str()) == 0 || errno == ENOENT;
}

}  // namespace moult::agent
