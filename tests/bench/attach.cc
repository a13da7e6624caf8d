// SPDX-License-Identifier: Apache-2.0
#include "attach.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "command.h"
#include "moult/base/page.h"
#include "moult/base/unique_fd.h"

namespace moult::bench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kLeastMib = 32;
// Where the programs are in the guest: `moultctl vm --payload bench/...` puts them there.
constexpr char kGuestBench[] = "/run/moult/bench/moult-bench";
constexpr char kGuestFloor[] = "/run/moult/bench/attach_bench";

// One VM, asked through moultctl. One that we booted ends with this.
class Guest {
 public:
  explicit Guest(const AttachArguments& arguments) : arguments_(arguments), control_(arguments.control) {}
  ~Guest() {
    if (qemu_ <= 0) return;
    const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, qemu_, 0)));
    kill(qemu_, SIGTERM);  // its supervisor ends with it
    pollfd ended{pidfd.get(), POLLIN, 0};
    if (pidfd.valid()) poll(&ended, 1, 10'000);
  }
  Guest(const Guest&) = delete;

  absl::Status Boot(const std::string& folder) {
    if (!control_.empty()) return absl::OkStatus();
    std::vector<std::string> argv{
        Program("moultctl"), "vm", "--json", "--detach", "--dir", folder + "/vm", "--store",
        folder + "/store", "--kernel", arguments_.kernel,
        // Twice the largest template: as a function, and beside the rest of the guest.
        "--memory", std::to_string(arguments_.most_mib + 1024), "--window", "4096", "--payload",
        "bench/moult-bench=" + Program("moult-bench"), "--payload",
        "bench/attach_bench=" + Program("attach_bench")};
    MOULT_ASSIGN_OR_RETURN(const json told, RunForJson(argv));
    control_ = told.at("control");
    accel_ = told.at("accel");
    qemu_ = told.at("pid");
    return absl::OkStatus();
  }

  absl::StatusOr<json> Ask(std::vector<std::string> words) const {
    words.insert(words.begin(), {Program("moultctl"), "--control", control_, "--json"});
    return RunForJson(words);
  }

  // Starts `command`, which says `line` when it is ready; its id.
  absl::StatusOr<std::string> Start(const std::string& line, std::vector<std::string> command) const {
    command.insert(command.begin(),
                   {"run", "--name", "bench", "--ready", "line:" + line, "--ready-timeout", "900000", "--"});
    MOULT_ASSIGN_OR_RETURN(const json told, Ask(std::move(command)));
    return std::to_string(told.at("function").at("id").get<uint64_t>());
  }

  absl::Status End(const std::string& function) const {
    MOULT_RETURN_IF_ERROR(Ask({"kill", function}).status());
    return Ask({"forget", function}).status();
  }

  const std::string& accel() const { return accel_; }

 private:
  std::string Program(const std::string& name) const { return arguments_.bin + "/" + name; }

  const AttachArguments& arguments_;
  std::string control_;
  std::string accel_ = "as given";
  pid_t qemu_ = -1;
};

// One attach, with its phases in `samples` when there are some; the function is ended again.
absl::StatusOr<double> AttachOnce(const Guest& guest, const std::string& name, Samples* samples) {
  MOULT_ASSIGN_OR_RETURN(const json told, guest.Ask({"attach", name, "--pages", "in_place"}));
  const double total = told.at("total_us");
  if (samples != nullptr) {
    samples->Add("total", total);
    for (const json& phase : told.at("phases")) samples->Add(phase.at("name"), phase.at("us"));
  }
  MOULT_RETURN_IF_ERROR(guest.End(std::to_string(told.at("function").at("id").get<uint64_t>())));
  return total;
}

absl::StatusOr<AttachSize> MeasureSize(const Guest& guest, int mib, int rounds) {
  const std::string name = absl::StrCat("bench-", mib, "M");
  AttachSize size;
  size.mib = static_cast<uint64_t>(mib);
  const std::string pages = std::to_string((size.mib << 20) / kPage);
  MOULT_ASSIGN_OR_RETURN(const std::string victim,
                         guest.Start("ready", {kGuestBench, "victim", "--line", "--pages", pages}));
  MOULT_ASSIGN_OR_RETURN(const json captured, guest.Ask({"capture", "--end", victim, name}));
  size.pages = captured.at("template").at("pages_bytes").get<uint64_t>() / kPage;
  MOULT_RETURN_IF_ERROR(guest.Ask({"forget", victim}).status());
  MOULT_ASSIGN_OR_RETURN(size.first_us, AttachOnce(guest, name, nullptr));
  for (int round = 0; round < rounds; ++round)
    MOULT_RETURN_IF_ERROR(AttachOnce(guest, name, &size.samples).status());
  MOULT_RETURN_IF_ERROR(guest.Ask({"templates", "remove", name}).status());
  return size;
}

absl::StatusOr<json> MeasureFloor(const Guest& guest) {
  MOULT_ASSIGN_OR_RETURN(
      const std::string function,
      guest.Start("measured", {"/bin/sh", "-c",
                               absl::StrCat(kGuestFloor, " --json && echo measured && exec sleep 1000000")}));
  MOULT_ASSIGN_OR_RETURN(const json told, guest.Ask({"logs", function}));
  MOULT_RETURN_IF_ERROR(guest.End(function));
  const std::string text = told.value("log", "");
  json floor = json::parse(text.substr(0, text.find('\n')), nullptr, /*allow_exceptions=*/false);
  if (!floor.is_array() || floor.empty())
    return absl::DataLossError("attach_bench in the guest said: " + text);
  return floor;
}

absl::StatusOr<AttachReport> MeasureIn(const Guest& guest, const AttachArguments& arguments) {
  AttachReport report;
  report.rounds = arguments.rounds;
  report.accel = guest.accel();
  MOULT_ASSIGN_OR_RETURN(const json hello, guest.Ask({"hello"}));
  report.guest_kernel = hello.at("hello").at("kernel_release");
  for (int mib = kLeastMib; mib <= arguments.most_mib; mib *= 2) {
    MOULT_ASSIGN_OR_RETURN(AttachSize size, MeasureSize(guest, mib, arguments.rounds));
    const Summary total = size.samples.Get("total");
    std::printf("%5d MiB, %7llu pages: attach %8.1f ms (%.1f..%.1f), the first %.1f\n", mib,
                static_cast<unsigned long long>(size.pages), total.median / 1000, total.min / 1000,
                total.max / 1000, size.first_us / 1000);
    std::fflush(stdout);
    report.sizes.push_back(std::move(size));
  }
  // Last: it turns huge pages off in the guest.
  MOULT_ASSIGN_OR_RETURN(report.floor, MeasureFloor(guest));
  return report;
}

}  // namespace

absl::StatusOr<AttachReport> MeasureAttach(const AttachArguments& arguments) {
  std::string folder = arguments.work + "/moult-bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr)
    return ErrnoStatus(absl::StrCat("make a folder in ", arguments.work));
  absl::StatusOr<AttachReport> report = absl::InternalError("not measured");
  {
    Guest guest(arguments);
    const absl::Status booted = guest.Boot(folder);
    try {
      report = booted.ok() ? MeasureIn(guest, arguments) : booted;
    } catch (const json::exception& error) {
      report = absl::DataLossError(absl::StrCat("what moultctl says is not as expected: ", error.what()));
    }
  }
  std::error_code ignored;
  // The store keeps its templates read-only.
  fs::remove_all(folder, ignored);
  return report;
}

}  // namespace moult::bench
