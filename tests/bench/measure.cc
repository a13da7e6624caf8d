// SPDX-License-Identifier: Apache-2.0
#include "measure.h"

#include <csignal>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "command.h"

namespace moult::bench {
namespace {

// The phases of a restore that only check page content or read it into the new process.
bool IsContentPhase(const std::string& name) { return name == "verify pages" || name == "fill pages"; }

absl::StatusOr<uint64_t> PrivateBytes(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  uint64_t kib = 0;
  for (std::string key; file >> key;) {
    uint64_t value = 0;
    if ((key == "RssAnon:" || key == "RssShmem:" || key == "VmSwap:") && file >> value) kib += value;
  }
  if (kib == 0) return absl::NotFoundError(absl::StrCat("/proc/", pid, "/status names no private memory"));
  return kib * 1024;
}

void AddPhases(const nlohmann::json& phases, Samples& samples) {
  for (const auto& [name, micros] : phases.items()) samples.Add(name, micros.get<double>());
}

class Rounds {
 public:
  Rounds(Measurement& result, const Places& places, int rounds)
      : result_(result),
        places_(places),
        rounds_(rounds),
        work_(absl::StrCat(places.work, "/", result.subject.name)) {}
  ~Rounds() {
    if (pid_ > 0) End(pid_);
    std::error_code ignored;
    std::filesystem::remove_all(work_, ignored);
  }
  Rounds(const Rounds&) = delete;
  Rounds& operator=(const Rounds&) = delete;

  absl::Status Run() {
    MOULT_ASSIGN_OR_RETURN(pid_, Start(result_.subject, places_));
    const std::string kept = work_ + "/template";
    // The last dump ends the process, so that its pid is free; it is not one of the rounds.
    for (int i = 0; i < rounds_; ++i) {
      if (Interrupted()) return absl::CancelledError("interrupted");
      const std::string dir = absl::StrCat(work_, "/dump", i);
      MOULT_RETURN_IF_ERROR(Dump(dir));
      std::filesystem::remove_all(dir);
    }
    MOULT_RETURN_IF_ERROR(RunForJson({places_.tool, "dump", absl::StrCat(pid_), kept, "--json"}).status());
    Reap(pid_);
    pid_ = 0;
    for (int i = 0; i < rounds_; ++i) {
      if (Interrupted()) return absl::CancelledError("interrupted");
      MOULT_RETURN_IF_ERROR(Restore(kept));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<nlohmann::json> Floor(const std::vector<std::string>& arguments) {
    std::vector<std::string> argv{places_.self, "floor"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    MOULT_ASSIGN_OR_RETURN(nlohmann::json json, RunForJson(argv));
    for (const auto& [name, micros] : json.items()) result_.floor.Add(name, micros.get<double>());
    return json;
  }

  absl::Status Dump(const std::string& dir) {
    MOULT_ASSIGN_OR_RETURN(result_.private_bytes, PrivateBytes(pid_));
    double wall = 0;
    MOULT_ASSIGN_OR_RETURN(
        const auto json,
        RunForJson({places_.tool, "dump", absl::StrCat(pid_), dir, "--leave-running", "--json"}, &wall));
    result_.user_state_bytes = json.at("user_state_bytes").get<uint64_t>();
    result_.threads = json.at("threads").get<long>();
    result_.vmas = json.at("vmas").get<long>();
    result_.fds = json.at("fds").get<long>();
    MOULT_ASSIGN_OR_RETURN(const auto floor,
                           Floor({"--copy-bytes", absl::StrCat(result_.private_bytes), "--stop-threads",
                                  absl::StrCat(result_.threads), "--look-fds", absl::StrCat(result_.fds)}));
    const double stopped = json.at("stopped_us").get<double>();
    result_.dump.Add(kStopped, stopped);
    result_.dump.Add(kExcess, stopped - floor.at(kCopy).get<double>());
    result_.dump.Add(kExcessMemcpy, stopped - floor.at(kMemcpy).get<double>());
    result_.floor.Add(kBare, floor.at(kCopy).get<double>() + floor.value(kStop, 0.0) + floor.value(kLook, 0.0));
    result_.dump.Add(kTotal, json.at("total_us").get<double>());
    result_.dump.Add(kWall, wall);
    AddPhases(json.at("phases_us"), result_.dump_phases);
    return absl::OkStatus();
  }

  absl::Status Restore(const std::string& dir) {
    double wall = 0;
    MOULT_ASSIGN_OR_RETURN(const auto json, RunForJson({places_.tool, "restore", dir, "--json"}, &wall));
    End(json.at("processes").at(0).at("pid").get<pid_t>());
    MOULT_ASSIGN_OR_RETURN(
        const auto floor,
        Floor({"--template", dir, "--threads", absl::StrCat(result_.threads), "--fds", absl::StrCat(result_.fds)}));
    const double total = json.at("total_us").get<double>();
    double content = 0;
    for (const auto& [name, micros] : json.at("phases_us").items()) {
      if (IsContentPhase(name)) content += micros.get<double>();
    }
    result_.restore.Add(kTotal, total);
    result_.restore.Add(kWall, wall);
    result_.restore.Add(kContent, content);
    result_.restore.Add(kRest, total - content);
    result_.floor.Add(kRestFloor, floor.at(kMmaps).get<double>() + floor.at(kClones).get<double>() +
                                      floor.at(kFdCalls).get<double>() + floor.at(kForkExit).get<double>());
    AddPhases(json.at("phases_us"), result_.restore_phases);
    return absl::OkStatus();
  }

  Measurement& result_;
  const Places& places_;
  const int rounds_;
  const std::string work_;
  pid_t pid_ = 0;
};

}  // namespace

Measurement Measure(const Subject& subject, const Places& places, int rounds) {
  Measurement result;
  result.subject = subject;
  result.status = Rounds(result, places, rounds).Run();
  return result;
}

bool Interrupted() {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1;
}

}  // namespace moult::bench
