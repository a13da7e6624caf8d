// SPDX-License-Identifier: Apache-2.0
//
// moult-vm-dax URI NAME STORE [hold]: shows a template of a dax: pool in a window, as an attach does, and
// prints what can be seen of that: the digest of what is shown, what the kernel says of the mapping, how long
// it took, also with the store that has it, too, and what becomes of somebody who writes there. `hold`: then
// waits for the end of its input.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <functional>
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

struct Memory {
  Memory()
      : reserved(mmap(nullptr, kWindow + kSlotAlign, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)),
        // SAFETY: rounded up within what was reserved for that.
        at(reinterpret_cast<std::byte*>(moult::AlignUp(reinterpret_cast<uintptr_t>(reserved), kSlotAlign))) {}
  void* const reserved;
  std::byte* const at;
};

using Source = std::function<absl::StatusOr<std::shared_ptr<const moult::host::Template>>()>;

// As an attach takes a template from `source`; how long that took, in us.
absl::StatusOr<uint64_t> Take(moult::host::Window* window, const Source& source, uint64_t* size) {
  const auto begin = Clock::now();
  MOULT_ASSIGN_OR_RETURN(const auto content, source());
  *size = content->reader->pages_size();
  MOULT_RETURN_IF_ERROR(window
                            ->Take({content->digest, content->name, content->pages_fd(), *size,
                                    content->remote, content->direct},
                                   kWindow)
                            .status());
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count());
}

absl::Status Show(const std::string& uri, const std::string& name, const std::string& folder, bool hold) {
  const Memory memory, other;
  if (memory.reserved == MAP_FAILED || other.reserved == MAP_FAILED) return moult::ErrnoStatus("mmap");
  moult::host::Window window({0, memory.at, kWindow, 0}, [](uint32_t, uint64_t, uint64_t) {});
  moult::host::RemoteStore pool({});
  std::vector<std::string> notes;
  const Source from_pool = [&] {
    return pool.Open({uri, name, ""}, Clock::now() + std::chrono::minutes(2), &notes);
  };
  json result;
  uint64_t size = 0;
  // The second time it was checked before.
  MOULT_ASSIGN_OR_RETURN(result["first_us"], Take(&window, from_pool, &size));
  MOULT_ASSIGN_OR_RETURN(result["again_us"], Take(&window, from_pool, &size));
  {
    moult::host::Window plain({0, other.at, kWindow, 0}, [](uint32_t, uint64_t, uint64_t) {});
    MOULT_ASSIGN_OR_RETURN(const auto store, moult::host::Store::Open(folder, /*create=*/false));
    const Source from_store = [&] { return store->Get(name); };
    MOULT_ASSIGN_OR_RETURN(result["store_first_us"], Take(&plain, from_store, &size));
    MOULT_ASSIGN_OR_RETURN(result["store_again_us"], Take(&plain, from_store, &size));
  }
  const std::string_view shown(reinterpret_cast<const char*>(memory.at), size);
  result["digest"] = moult::image::DigestHex(moult::image::Sha256Of(shown));
  result["direct"] = window.slots().front().direct;
  result["smaps"] = Smaps(memory.at);
  result["write"] = WriteTo(memory.at + 5000);
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
  if (argc < 4) return 2;
  const absl::Status status = Show(argv[1], argv[2], argv[3], argc > 4);
  if (!status.ok()) std::fprintf(stderr, "moult-vm-dax: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
