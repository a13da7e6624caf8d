// SPDX-License-Identifier: Apache-2.0
//
// What runs when the library is loaded, before QEMU's main(). It only leaves a notifier: `-daemonize` forks
// later on, and threads do not live through that.
#include <limits.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapter.h"

namespace moult::qemu {
namespace {

constexpr char kLibrary[] = "libmoult-qemu.so";

// Never destroyed: QEMU's threads, and ours, run until the process is gone.
Adapter* adapter;
Notifier init_done;
Notifier exiting;

std::string ProgramName() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return "";
  return std::filesystem::path(std::string(path, static_cast<size_t>(length))).filename();
}

// Programs that QEMU starts are no concern of ours, and the settings are no concern of theirs.
void CleanEnvironment() {
  unsetenv("MOULT_QEMU");
  const char* preload = getenv("LD_PRELOAD");
  if (preload == nullptr) return;
  std::vector<std::string> kept = absl::StrSplit(preload, absl::ByAnyChar(": "), absl::SkipEmpty());
  std::erase_if(kept,
                [](const std::string& path) { return std::filesystem::path(path).filename() == kLibrary; });
  if (kept.empty()) {
    unsetenv("LD_PRELOAD");
  } else {
    setenv("LD_PRELOAD", absl::StrJoin(kept, ":").c_str(), 1);
  }
}

// -daemonize and -chroot come between now and when the paths are used.
void MakeAbsolute(std::string* path, size_t prefix = 0) {
  if (path->size() > prefix && (*path)[prefix] != '/') {
    path->insert(prefix, absl::StrCat(std::filesystem::current_path().string(), "/"));
  }
}

Settings ReadSettings(const char* text, absl::Status* fault) {
  Settings settings;
  *fault = ParseSettings(text, &settings);
  for (std::string* path : {&settings.control, &settings.store, &settings.log}) MakeAbsolute(path);
  for (const char* kind : {"uds:", "unix:"}) {
    if (absl::StartsWith(settings.vsock, kind)) MakeAbsolute(&settings.vsock, std::strlen(kind));
  }
  return settings;
}

void OnInitDone(Notifier*, void*) {
  adapter->Start();
  // Only now, in the process that stays: the parent of a daemon runs its exit notifiers as well.
  exiting.notify = [](Notifier*, void*) { adapter->Exit(); };
  const absl::StatusOr<Api> api = FindApi();
  if (api.ok()) api->qemu_add_exit_notifier(&exiting);
}

__attribute__((constructor)) void Load() {
  if (!absl::StartsWith(ProgramName(), "qemu-system-")) return;
  const char* text = getenv("MOULT_QEMU");
  if (text == nullptr) return CleanEnvironment();
  absl::Status fault;
  Settings settings = ReadSettings(text, &fault);
  CleanEnvironment();
  const auto hook = FindInitDoneHook();
  if (hook == nullptr && fault.ok()) fault = FindApi().status();
  adapter = new Adapter(std::move(settings), std::move(fault));
  if (hook == nullptr) return adapter->Start();  // which can only tell what is wrong
  init_done.notify = OnInitDone;
  hook(&init_done);
}

}  // namespace
}  // namespace moult::qemu
