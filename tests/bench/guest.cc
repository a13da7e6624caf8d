// SPDX-License-Identifier: Apache-2.0
#include "guest.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "command.h"
#include "moult/base/unique_fd.h"

namespace moult::bench {

using nlohmann::json;

Guest::~Guest() {
  if (qemu_ <= 0) return;
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, qemu_, 0)));
  kill(qemu_, SIGTERM);  // its supervisor ends with it
  pollfd ended{pidfd.get(), POLLIN, 0};
  if (pidfd.valid()) poll(&ended, 1, 10'000);
}

absl::Status Guest::Boot(std::vector<std::string> options) {
  options.insert(options.begin(), {Program("moultctl"), "vm", "--json", "--detach"});
  MOULT_ASSIGN_OR_RETURN(const json told, RunForJson(options));
  control_ = told.at("control");
  accel_ = told.at("accel");
  qemu_ = told.at("pid");
  return absl::OkStatus();
}

absl::StatusOr<json> Guest::Ask(std::vector<std::string> words) const {
  words.insert(words.begin(), {Program("moultctl"), "--control", control_, "--json"});
  return RunForJson(words);
}

absl::Status Guest::End(const std::string& function) const {
  MOULT_RETURN_IF_ERROR(Ask({"kill", function}).status());
  return Ask({"forget", function}).status();
}

std::string FunctionOf(const json& told) {
  return std::to_string(told.at("function").at("id").get<uint64_t>());
}

}  // namespace moult::bench
