// SPDX-License-Identifier: Apache-2.0
//
// moult-vm-dax URI NAME [hold]: shows a template of a dax: pool in a window, as an attach does, and prints
// what can be seen of that: the digest of what is shown, what the kernel says of the mapping, how long it
// took, and what becomes of somebody who writes there. `hold`: then waits for the end of its input.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "nlohmann/json.hpp"
#include "remote/remote_store.h"
#include "window/window.h"

namespace {

using moult::host::Clock;
using moult::host::kSlotAlign;
using nlohmann::json;

constexpr uint64_t kWindow = 256 << 20;

// The numbers of the mapping that begins at `at`, in KiB; what it is of under "".
json Smaps(const std::byte* at) {
  std::ifstream in("/proc/self/smaps");
  const std::string start = absl::StrCat(absl::Hex(reinterpret_cast<uintptr_t>(at)), "-");
  json found;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.find('-') < line.find(' ')) {
      inside = absl::StartsWith(line, start);
      if (inside) found["line"] = line;
    } else if (inside) {
      std::istringstream fields(line);
      std::string key;
      uint64_t number = 0;
      if (fields >> key >> number) found[key.substr(0, key.size() - 1)] = number;
    }
  }
  return found;
}

std::string WriteTo(std::byte* at) {
  const pid_t child = fork();
  if (child == 0) {
    *at ^= std::byte{1};
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status)) : "copied";
}

uint64_t MicrosSince(Clock::time_point then) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - then).count());
}

absl::Status Show(const std::string& uri, const std::string& name, bool hold) {
  void* const reserved = mmap(nullptr, kWindow + kSlotAlign, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return moult::ErrnoStatus("mmap");
  // SAFETY: rounded up within what was reserved for that.
  auto* const memory =
      reinterpret_cast<std::byte*>(moult::AlignUp(reinterpret_cast<uintptr_t>(reserved), kSlotAlign));
  moult::host::Window window({0, memory, kWindow, 0}, [](uint32_t, uint64_t, uint64_t) {});
  moult::host::RemoteStore store({});
  std::vector<std::string> notes;
  json result;
  // The second time it was checked before.
  for (const char* what : {"first_us", "again_us"}) {
    const auto begin = Clock::now();
    MOULT_ASSIGN_OR_RETURN(const auto content,
                           store.Open({uri, name, ""}, begin + std::chrono::minutes(2), &notes));
    MOULT_RETURN_IF_ERROR(window
                              .Take({content->digest, name, content->pages_fd(),
                                     content->reader->pages_size(), content->remote, content->direct},
                                    kWindow)
                              .status());
    result[what] = MicrosSince(begin);
    result["pages"] = content->reader->pages_size();
  }
  const std::string_view shown(reinterpret_cast<const char*>(memory), result["pages"].get<uint64_t>());
  result["digest"] = moult::image::DigestHex(moult::image::Sha256Of(shown));
  result["direct"] = window.slots().front().direct;
  result["smaps"] = Smaps(memory);
  result["write"] = WriteTo(memory + 5000);
  std::printf("%s\n", result.dump().c_str());
  std::fflush(stdout);
  while (hold && std::getchar() != EOF) {
  }
  // What was shown until now must not have changed.
  if (hold) std::printf("%s\n", moult::image::DigestHex(moult::image::Sha256Of(shown)).c_str());
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const absl::Status status = Show(argv[1], argv[2], argc > 3);
  if (!status.ok()) std::fprintf(stderr, "moult-vm-dax: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
