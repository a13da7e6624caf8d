// SPDX-License-Identifier: Apache-2.0
#include "attach.h"

#include <unistd.h>

#include <filesystem>

#include "guest.h"
#include "moult/base/page.h"

namespace moult::bench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kLeastMib = 32;
// Where the programs are in the guest: `moultctl vm --payload bench/...` puts them there.
constexpr char kGuestBench[] = "/run/moult/bench/moult-bench";
constexpr char kGuestFloor[] = "/run/moult/bench/attach_bench";

absl::Status Boot(Guest* guest, const AttachArguments& arguments, const std::string& folder) {
  if (!arguments.control.empty()) return absl::OkStatus();
  return guest->Boot({"--dir", folder + "/vm", "--store", folder + "/store", "--kernel", arguments.kernel,
                      // Twice the largest template: as a function, and beside the rest of the guest.
                      "--memory", std::to_string(arguments.most_mib + 1024), "--window", "4096", "--payload",
                      "bench/moult-bench=" + guest->Program("moult-bench"), "--payload",
                      "bench/attach_bench=" + guest->Program("attach_bench")});
}

// Starts `command`, which says `line` when it is ready; its id.
absl::StatusOr<std::string> Start(const Guest& guest, const std::string& line, std::vector<std::string> command) {
  command.insert(command.begin(),
                 {"run", "--name", "bench", "--ready", "line:" + line, "--ready-timeout", "900000", "--"});
  MOULT_ASSIGN_OR_RETURN(const json told, guest.Ask(std::move(command)));
  return FunctionOf(told);
}

// One attach, with its phases in `samples` when there are some; the function is ended again.
absl::StatusOr<double> AttachOnce(const Guest& guest, const std::string& name, Samples* samples) {
  MOULT_ASSIGN_OR_RETURN(const json told, guest.Ask({"attach", name, "--pages", "in_place"}));
  const double total = told.at("total_us");
  if (samples != nullptr) {
    samples->Add("total", total);
    for (const json& phase : told.at("phases")) samples->Add(phase.at("name"), phase.at("us"));
  }
  MOULT_RETURN_IF_ERROR(guest.End(FunctionOf(told)));
  return total;
}

absl::StatusOr<AttachSize> MeasureSize(const Guest& guest, int mib, int rounds) {
  const std::string name = absl::StrCat("bench-", mib, "M");
  AttachSize size;
  size.mib = static_cast<uint64_t>(mib);
  const std::string pages = std::to_string((size.mib << 20) / kPage);
  MOULT_ASSIGN_OR_RETURN(const std::string victim,
                         Start(guest, "ready", {kGuestBench, "victim", "--line", "--pages", pages}));
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
      Start(guest, "measured", {"/bin/sh", "-c",
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
    Guest guest(arguments.bin, arguments.control);
    const absl::Status booted = Boot(&guest, arguments, folder);
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
