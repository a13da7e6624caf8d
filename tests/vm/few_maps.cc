// SPDX-License-Identifier: Apache-2.0
//
// LD_PRELOADed into a VMM: takes all mappings that this process may have but for a few, and gives them back, as who connects
// to the unix socket MOULT_TEST_MAPS says: a line "few N" or "all", answered by "done" or "failed".
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>

#include "few_maps.h"

namespace {

// For good, and before there is anybody else: each mapping that is made later has to wait for who touches memory, and they for it
// (several milliseconds each on a busy machine, in which the guest's CPUs stand still).
void TakeMost() {
  constexpr size_t kLeft = 1536;  // of which a VMM with functions that are out has half
  const size_t most = moult::testing::MostMaps();
  if (most < 2 * kLeft) return;
  const size_t bytes = most * moult::testing::kMapPage;
  void* const at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return;
  for (size_t i = 1; i < most - kLeft; i += 2)
    (void)mprotect(static_cast<std::byte*>(at) + i * moult::testing::kMapPage, moult::testing::kMapPage, PROT_READ);
}

bool Obey(const std::string& line, std::optional<moult::testing::FewMaps>* few) {
  few->reset();
  if (line.rfind("few ", 0) != 0) return line == "all\n";
  few->emplace(std::stoul(line.substr(4)));
  return (*few)->full();
}

void Serve(int listener) {
  std::optional<moult::testing::FewMaps> few;
  for (;;) {
    const int client = accept(listener, nullptr, nullptr);
    if (client < 0) return;
    char line[64];
    while (const ssize_t got = read(client, line, sizeof(line))) {
      if (got < 0) break;
      const char* const answer = Obey(std::string(line, static_cast<size_t>(got)), &few) ? "done\n" : "failed\n";
      if (write(client, answer, strlen(answer)) < 0) break;
    }
    few.reset();
    close(client);
  }
}

__attribute__((constructor)) void Start() {
  const char* const path = getenv("MOULT_TEST_MAPS");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path == nullptr || strlen(path) >= sizeof(address.sun_path)) return;
  strcpy(address.sun_path, path);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(path);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 || listen(listener, 1) != 0) return;
  unsetenv("MOULT_TEST_MAPS");  // What this process starts has its own limit.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  TakeMost();
  std::thread(Serve, listener).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace
