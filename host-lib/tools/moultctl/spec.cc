// SPDX-License-Identifier: Apache-2.0
#include "spec.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "moult/base/status.h"
#include "read_file.h"

namespace moult::ctl {
namespace {

absl::Status Wrong(const char* flag, const std::string& value, const char* must) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, ": must be ", must));
}

absl::StatusOr<Json> Endpoint(const std::string& text) {
  absl::string_view value = text;
  uint32_t port = 0;
  if (absl::ConsumePrefix(&value, "unix:") && absl::StartsWith(value, "/"))
    return Json{{"kind", "unix"}, {"path", std::string(value)}};
  value = text;
  if (absl::ConsumePrefix(&value, "tcp:") && absl::SimpleAtoi(value, &port) && port > 0 && port < 65536) {
    return Json{{"kind", "tcp"}, {"port", port}};
  }
  return Wrong("--endpoint", text, "unix:/path or tcp:PORT");
}

absl::StatusOr<Json> Readiness(const char* option, const std::string& text, uint32_t timeout_ms) {
  absl::string_view value = text;
  Json ready;
  if (text == "started" || text == "connect") {
    ready["kind"] = text;
  } else if (absl::ConsumePrefix(&value, "http:") && absl::StartsWith(value, "/")) {
    ready = Json{{"kind", "http_get"}, {"path", std::string(value)}};
  } else if (value = text; absl::ConsumePrefix(&value, "line:") && !value.empty()) {
    ready = Json{{"kind", "line"}, {"line", std::string(value)}};
  } else {
    return Wrong(option, text, "started, connect, http:/path or line:TEXT");
  }
  if (timeout_ms != 0) ready["timeout_ms"] = timeout_ms;
  return ready;
}

Json Hook(const std::string& text) {
  absl::string_view value = text;
  if (absl::ConsumePrefix(&value, "http:") && absl::StartsWith(value, "/")) {
    return Json{{"kind", "http_get"}, {"path", std::string(value)}};
  }
  return Json{{"kind", "command"}, {"command", {"/bin/sh", "-c", text}}};
}

absl::StatusOr<uint64_t> Size(const std::string& text) {
  absl::string_view digits = text;
  const int shift = absl::ConsumeSuffix(&digits, "K")   ? 10
                    : absl::ConsumeSuffix(&digits, "M") ? 20
                    : absl::ConsumeSuffix(&digits, "G") ? 30
                                                        : 0;
  uint64_t number = 0;
  if (!absl::SimpleAtoi(digits, &number) || number == 0 || number > (UINT64_MAX >> shift)) {
    return Wrong("--memory", text, "a number of bytes, with K, M or G if you like");
  }
  return number << shift;
}

absl::StatusOr<Json> ReadSpec(const std::string& path) {
  MOULT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, absl::StrCat("specification ", path)));
  const absl::StatusOr<Json> spec = control::ParseJson(text);
  if (!spec.ok() || !spec->is_object())
    return absl::InvalidArgumentError(absl::StrCat("specification ", path, ": is no JSON object"));
  return spec;
}

}  // namespace

absl::StatusOr<Json> SpecOf(const RunFlags& flags) {
  if (flags.words.empty())
    return absl::InvalidArgumentError("run: give a specification's file, or --name NAME -- COMMAND...");
  if (flags.name.empty()) {
    if (flags.words.size() != 1) return absl::InvalidArgumentError("run: a command needs a --name");
    return ReadSpec(flags.words[0]);
  }
  Json spec{{"name", flags.name}, {"argv", flags.words}};
  if (!flags.env.empty()) spec["env"] = flags.env;
  if (!flags.cwd.empty()) spec["cwd"] = flags.cwd;
  if (flags.uid != 0) spec["uid"] = flags.uid;
  if (flags.gid != 0) spec["gid"] = flags.gid;
  if (flags.pids != 0) spec["pids_limit"] = flags.pids;
  if (!flags.memory.empty()) {
    MOULT_ASSIGN_OR_RETURN(spec["memory_limit"], Size(flags.memory));
  }
  if (!flags.cpu.empty()) {
    double cpus = 0;
    if (!absl::SimpleAtod(flags.cpu, &cpus) || !(cpus >= 0.001 && cpus <= 4096))
      return Wrong("--cpu", flags.cpu, "a number of CPUs, like 0.5");
    spec["cpu_limit_milli"] = static_cast<uint32_t>(std::lround(cpus * 1000));
  }
  if (!flags.endpoint.empty()) {
    MOULT_ASSIGN_OR_RETURN(spec["endpoint"], Endpoint(flags.endpoint));
  }
  // A function with an endpoint is not ready before it accepts.
  const std::string ready = !flags.ready.empty()     ? flags.ready
                            : flags.endpoint.empty() ? "started"
                                                     : "connect";
  MOULT_ASSIGN_OR_RETURN(spec["readiness"], Readiness("--ready", ready, flags.ready_timeout_ms));
  if (!flags.runtime_up.empty()) {
    MOULT_ASSIGN_OR_RETURN(spec["runtime_up"], Readiness("--runtime-up", flags.runtime_up, flags.ready_timeout_ms));
  }
  if (!flags.before_capture.empty()) spec["before_capture"] = Hook(flags.before_capture);
  if (!flags.after_attach.empty()) spec["after_attach"] = Hook(flags.after_attach);
  return spec;
}

}  // namespace moult::ctl
