// SPDX-License-Identifier: Apache-2.0
#include "ledger/pipes.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>
#include <utility>

#include "moult/base/page.h"
#include "moult/base/unique_fd.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

absl::Status WipePipesOf(const std::string& process, std::set<std::pair<dev_t, ino_t>>& wiped) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<int> fds, proc::ListNumeric(process + "/fd"));
  for (const int number : fds) {
    const std::string path = absl::StrCat(process, "/fd/", number);
    struct stat st {};
    if (stat(path.c_str(), &st) < 0 || !S_ISFIFO(st.st_mode)) continue;
    if (!wiped.emplace(st.st_dev, st.st_ino).second) continue;
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat("open pipe ", path));
    MOULT_RETURN_IF_ERROR(Annotate(WipePipe(fd.get()), path));
  }
  return absl::OkStatus();
}

}  // namespace

// A page that was emptied is the first that the kernel takes again. So each is followed by a page of zeros at
// once, which is written into the very page; emptying all first would scatter them. By splice nothing is
// copied on the way out.
absl::Status WipePipe(int fd) {
  static constexpr std::array<char, kPage> kZeros{};
  const UniqueFd nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (!nowhere.valid()) return ErrnoStatus("open /dev/null");
  int waiting = 0;
  if (ioctl(fd, FIONREAD, &waiting) < 0) return ErrnoStatus("ask how much waits in a pipe");
  for (int64_t left = waiting; left > 0;) {
    const auto most = std::min<size_t>(kPage, static_cast<size_t>(left));
    const ssize_t n = splice(fd, nullptr, nowhere.get(), nullptr, most, SPLICE_F_NONBLOCK);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return ErrnoStatus(n < 0 ? errno : EIO, "empty a pipe");
    left -= n;
    // EAGAIN: a page that is emptied in part is still taken; its zeros come with the next.
    if (write(fd, kZeros.data(), kZeros.size()) < 0 && errno != EAGAIN)
      return ErrnoStatus("fill a pipe with zeros");
  }
  return absl::OkStatus();
}

absl::Status WipePipes(pid_t init_pid) {
  const std::string processes = absl::StrCat("/proc/", init_pid, "/root/proc");
  MOULT_ASSIGN_OR_RETURN(const std::vector<int> pids, proc::ListNumeric(processes));
  std::set<std::pair<dev_t, ino_t>> wiped;
  for (const int pid : pids) {
    if (pid == 1) continue;
    const absl::Status status = WipePipesOf(absl::StrCat(processes, "/", pid), wiped);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

}  // namespace moult::agent
