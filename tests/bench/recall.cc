// SPDX-License-Identifier: Apache-2.0
#include "recall.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "functions.h"
#include "guest.h"
#include "json_file.h"

namespace moult::bench {
namespace {

using nlohmann::json;

constexpr const char* kPrefetch[] = {"working-set", "none", "all"};
constexpr char kAttach[] = "attach";
constexpr char kThaw[] = "thaw", kForget[] = "forget";
constexpr double kGoal = 1;  // of a recall with the working set ahead, by what an attach takes

// The answer to one request, which must be the one that the function gave when it was fresh.
absl::Status Same(const Guest& guest, const std::string& function, const std::string& wanted, double* us) {
  MOULT_ASSIGN_OR_RETURN(const std::string answer, Answer(guest, function, 0, us));
  if (answer == wanted) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("function ", function, " gives another answer than it did"));
}

absl::Status RecallOnce(const Guest& guest, const std::string& function, const std::string& prefetch,
                        const std::string& wanted, RecallFunction* measured) {
  MOULT_ASSIGN_OR_RETURN(const json out, guest.Ask({"offload", function}));
  measured->offloaded_bytes = out.at("offloaded_bytes");
  MOULT_ASSIGN_OR_RETURN(const json back, guest.Ask({"recall", function, "--prefetch", prefetch}));
  double us = back.at("total_us");
  MOULT_RETURN_IF_ERROR(Same(guest, function, wanted, &us));
  measured->samples.Add(prefetch, us);
  return absl::OkStatus();
}

// Of a function that is all there: what is done besides letting it run on.
absl::Status ThawOnce(const Guest& guest, const std::string& function, Samples* samples) {
  MOULT_RETURN_IF_ERROR(guest.Ask({"freeze", function}).status());
  MOULT_ASSIGN_OR_RETURN(const json told, guest.Ask({"thaw", function}));
  for (const json& phase : told.at("phases")) {
    if (phase.at("name") == "agent.forget") samples->Add(kForget, phase.at("us"));
  }
  samples->Add(kThaw, told.at("total_us"));
  return absl::OkStatus();
}

absl::StatusOr<std::string> AttachOnce(const Guest& guest, const std::string& name, const std::string& wanted,
                                       Samples* samples) {
  MOULT_ASSIGN_OR_RETURN(const json told, guest.Ask({"attach", name, "--pages", "in_place"}));
  double us = told.at("total_us");
  MOULT_RETURN_IF_ERROR(Same(guest, FunctionOf(told), wanted, &us));
  samples->Add(kAttach, us);
  return FunctionOf(told);
}

// The port is one function's at a time, so the two take turns by series: first recalls in turns with each other, then
// attaches. A round more than is counted goes ahead of each: it fills caches, and records working sets.
absl::StatusOr<RecallFunction> MeasureFunction(const Guest& guest, const std::string& name, int rounds) {
  RecallFunction measured{name, 0, {}};
  MOULT_ASSIGN_OR_RETURN(const std::string function, StartFunction(guest, name));
  double unused = 0;
  MOULT_ASSIGN_OR_RETURN(const std::string wanted, Answer(guest, function, 0, &unused));
  for (int round = 0; round <= rounds; ++round) {
    if (round == 1) measured.samples = {};
    for (const char* prefetch : kPrefetch) MOULT_RETURN_IF_ERROR(RecallOnce(guest, function, prefetch, wanted, &measured));
    MOULT_RETURN_IF_ERROR(ThawOnce(guest, function, &measured.samples));
  }
  MOULT_RETURN_IF_ERROR(guest.Ask({"capture", "--end", function, name}).status());
  Samples first;
  for (int round = 0; round <= rounds; ++round) {
    MOULT_ASSIGN_OR_RETURN(const std::string attached, AttachOnce(guest, name, wanted, round == 0 ? &first : &measured.samples));
    MOULT_RETURN_IF_ERROR(guest.Ask({"detach", attached}).status());
  }
  return measured;
}

absl::StatusOr<RecallReport> MeasureIn(const RecallArguments& arguments, const std::string& folder) {
  std::vector<std::string> words{"--dir", folder + "/vm", "--store", folder + "/store", "--kernel", arguments.kernel, "--memory", "1024"};
  std::vector<std::string> functions;
  for (const std::string& function : arguments.functions) {
    const absl::Status there = AddFunction(function, arguments.sources, folder, &words);
    if (there.ok()) functions.push_back(function);
    if (!there.ok()) std::printf("%s skipped: %s\n", function.c_str(), std::string(there.message()).c_str());
  }
  Guest guest(arguments.bin, "");
  MOULT_RETURN_IF_ERROR(guest.Boot(words));
  MOULT_ASSIGN_OR_RETURN(const json hello, guest.Ask({"hello"}));
  RecallReport report{guest.accel(), hello.at("hello").at("kernel_release"), arguments.rounds, {}};
  for (const std::string& function : functions) {
    MOULT_ASSIGN_OR_RETURN(RecallFunction measured, MeasureFunction(guest, function, arguments.rounds));
    report.functions.push_back(std::move(measured));
  }
  return report;
}

double ToAttach(const RecallFunction& function, const char* prefetch) {
  const double attach = function.samples.Median(kAttach);
  return attach > 0 ? function.samples.Median(prefetch) / attach : 0;
}

// Round by round.
Summary ForgetOfThaw(const RecallFunction& function) {
  std::vector<double> shares = function.samples.Values(kForget);
  const std::vector<double> thaws = function.samples.Values(kThaw);
  for (size_t i = 0; i < shares.size(); ++i) shares[i] /= thaws[i];
  return Summarize(std::move(shares));
}

nlohmann::ordered_json ToJson(const RecallReport& report) {
  nlohmann::ordered_json functions = nlohmann::ordered_json::array();
  for (const RecallFunction& function : report.functions) {
    nlohmann::ordered_json one{{"name", function.name}, {"offloaded_bytes", function.offloaded_bytes}, {"first_answer_us", function.samples.Json()}};
    for (const char* prefetch : kPrefetch) one["to_attach"][prefetch] = ToAttach(function, prefetch);
    one["forget_of_thaw"] = ToJson(ForgetOfThaw(function));
    one["goal"] = {{"to_attach", kGoal}, {"met", ToAttach(function, kPrefetch[0]) <= kGoal}};
    functions.push_back(std::move(one));
  }
  return {{"accel", report.accel},
          {"guest_kernel", report.guest_kernel},
          {"rounds", report.rounds},
          {"method",
           "from the call (recall of an offloaded function, or attach of its template in place) to the end of the first answer, the time of "
           "moultctl's own start left out; recalls in turns with each other, then attaches; to_attach: medians by that of attach. thaw: of the function when it is all in RAM, from the "
           "call to its answer; forget: what of that the agent takes to clear which pages were touched"},
          {"functions", std::move(functions)}};
}

void Print(const RecallReport& report) {
  std::printf("to the first answer, medians of %d (min..max) in ms; under %s, Linux %s\n", report.rounds, report.accel.c_str(),
              report.guest_kernel.c_str());
  for (const RecallFunction& function : report.functions) {
    std::printf("%s, %.1f MiB out\n", function.name.c_str(), static_cast<double>(function.offloaded_bytes) / (1 << 20));
    const auto line = [&](const char* name, const char* what) {
      const Summary summary = function.samples.Get(name);
      std::printf("  %-28s %8.1f (%.1f..%.1f)", what, summary.median / 1000, summary.min / 1000, summary.max / 1000);
      if (name != kAttach) std::printf("   %.2f of attach", ToAttach(function, name));
      if (name == kPrefetch[0]) std::printf("  goal %.1f, %s", kGoal, ToAttach(function, name) <= kGoal ? "met" : "missed");
      std::printf("\n");
    };
    line(kAttach, "attach from the template");
    line(kPrefetch[0], "recall, working set first");
    line("none", "recall, nothing ahead");
    line("all", "recall, all ahead");
    const Summary share = ForgetOfThaw(function);
    std::printf("  a thaw of what is all in RAM takes %.1f ms; to forget what was touched is %.2f (%.2f..%.2f) of it\n",
                function.samples.Median(kThaw) / 1000, share.median, share.min, share.max);
  }
}

}  // namespace

absl::StatusOr<RecallReport> MeasureRecall(const RecallArguments& arguments) {
  std::string folder = arguments.work + "/moult-bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return ErrnoStatus(absl::StrCat("make a folder in ", arguments.work));
  absl::StatusOr<RecallReport> report = absl::InternalError("not measured");
  try {
    report = MeasureIn(arguments, folder);
  } catch (const json::exception& error) {
    report = absl::DataLossError(absl::StrCat("what moultctl says is not as expected: ", error.what()));
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return report;
}

int RunRecall(const RecallArguments& arguments) {
  const absl::StatusOr<RecallReport> report = MeasureRecall(arguments);
  if (!report.ok()) {
    std::fprintf(stderr, "moult-bench: recall: %s\n", std::string(report.status().message()).c_str());
    return 1;
  }
  Print(*report);
  return WriteJson(arguments.json, ToJson(*report));
}

}  // namespace moult::bench
