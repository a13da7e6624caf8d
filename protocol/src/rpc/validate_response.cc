// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "validate_internal.h"

namespace moult::rpc::validate {
namespace {

absl::Status CheckTexts(const Path& at, const char* field, const std::vector<std::string>& texts,
                        size_t count, size_t length) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, field, texts, count));
  for (const std::string& text : texts) MOULT_RETURN_IF_ERROR(CheckText(at, field, text, length));
  return absl::OkStatus();
}

absl::Status CheckPhases(const Path& at, const std::vector<std::unique_ptr<PhaseT>>& phases) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "phases", phases, kMaxPhases));
  for (size_t i = 0; i < phases.size(); ++i) {
    MOULT_RETURN_IF_ERROR(CheckText(Path(at, "phases", i), "name", phases[i]->name, kMaxShortText));
  }
  return absl::OkStatus();
}

// Whole pages that do not wrap around; adds up in `total`.
absl::Status CheckRuns(const Path& at, const char* field, const std::vector<GpaRun>& runs, uint64_t* total) {
  if (runs.size() > kMaxGpaRuns) {
    return at.BadField(field, runs.size(), " elements, over the limit of ", kMaxGpaRuns);
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    const uint64_t gpa = runs[i].gpa();
    const uint64_t length = runs[i].length();
    if (!PageAligned(gpa)) return Path(at, field, i).BadField("gpa", gpa, " is not page aligned");
    if (length == 0 || !PageAligned(length)) {
      return Path(at, field, i).BadField("length", length, " is not whole pages");
    }
    if (length > UINT64_MAX - gpa || length > UINT64_MAX - *total) {
      return Path(at, field, i).BadField("length", length, " wraps around");
    }
    *total += length;
  }
  return absl::OkStatus();
}

// The same, rising and disjoint.
absl::Status CheckRising(const Path& at, const char* field, const std::vector<GpaRun>& runs) {
  uint64_t total = 0;
  MOULT_RETURN_IF_ERROR(CheckRuns(at, field, runs, &total));
  uint64_t end = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].gpa() < end) return Path(at, field, i).BadField("gpa", runs[i].gpa(), " is not rising");
    end = runs[i].gpa() + runs[i].length();
  }
  return absl::OkStatus();
}

// What an agent tells of a function, a lost one included: information, so its spec need not be one that runs.
absl::Status CheckInfo(const Path& at, const FunctionInfoT* info) {
  if (info == nullptr) return at.Bad("missing");
  if (info->id == 0) return at.BadField("id", "0 names no function");
  if (info->spec == nullptr) return at.BadField("spec", "missing");
  MOULT_RETURN_IF_ERROR(CheckText(at, "spec.name", info->spec->name, kMaxShortText));
  if (!InRange(info->state, FunctionState::MAX)) {
    return at.BadField("state", static_cast<int>(info->state), " is unknown");
  }
  if (info->pid < 0) return at.BadField("pid", info->pid, " is negative");
  if (info->inner_pid < 0) return at.BadField("inner_pid", info->inner_pid, " is negative");
  MOULT_RETURN_IF_ERROR(CheckText(at, "template_name", info->template_name, kMaxShortText));
  return CheckText(at, "end_reason", info->end_reason, kMaxLongText);
}

absl::Status Check(const Path& at, const ErrorT& error) {
  // Text for people: cut rather than refused elsewhere, but bounded here.
  if (error.message.size() <= kMaxLongText) return absl::OkStatus();
  return at.BadField("message", error.message.size(), " bytes, over the limit of ", kMaxLongText);
}

absl::Status Check(const Path& at, const HelloReplyT& hello) {
  MOULT_RETURN_IF_ERROR(CheckText(at, "agent_version", hello.agent_version, kMaxShortText));
  MOULT_RETURN_IF_ERROR(CheckText(at, "boot_id", hello.boot_id, kMaxShortText));
  MOULT_RETURN_IF_ERROR(CheckText(at, "kernel_release", hello.kernel_release, kMaxShortText));
  MOULT_RETURN_IF_ERROR(CheckTexts(at, "features", hello.features, kMaxFeatures, kMaxShortText));
  MOULT_RETURN_IF_ERROR(CheckTexts(at, "verbs", hello.verbs, kMaxFeatures, kMaxShortText));
  MOULT_RETURN_IF_ERROR(CheckCount(at, "windows", hello.windows, kMaxWindows));
  for (size_t i = 0; i < hello.windows.size(); ++i) {
    const WindowT& window = *hello.windows[i];
    const bool gone = window.gpa == 0 && window.size == 0;
    if (!gone && (!PageAligned(window.gpa) || !PageAligned(window.size) || window.size == 0 ||
                  window.size > UINT64_MAX - window.gpa)) {
      return Path(at, "windows", i).Bad("gpa ", window.gpa, ", size ", window.size, ": not whole pages");
    }
  }
  return absl::OkStatus();
}

absl::Status Check(const Path& at, const DoctorReplyT& doctor) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "checks", doctor.checks, kMaxChecks));
  for (size_t i = 0; i < doctor.checks.size(); ++i) {
    const Path here(at, "checks", i);
    MOULT_RETURN_IF_ERROR(CheckText(here, "name", doctor.checks[i]->name, kMaxShortText));
    MOULT_RETURN_IF_ERROR(CheckText(here, "detail", doctor.checks[i]->detail, kMaxLongText));
    MOULT_RETURN_IF_ERROR(CheckText(here, "remedy", doctor.checks[i]->remedy, kMaxLongText));
  }
  return absl::OkStatus();
}

absl::Status Check(const Path& at, const ListReplyT& list) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "functions", list.functions, kMaxFunctions));
  std::set<uint64_t> ids;
  for (size_t i = 0; i < list.functions.size(); ++i) {
    const Path here(at, "functions", i);
    MOULT_RETURN_IF_ERROR(CheckInfo(here, list.functions[i].get()));
    if (!ids.insert(list.functions[i]->id).second) return here.BadField("id", "is there twice");
  }
  return absl::OkStatus();
}

absl::Status Check(const Path& at, const FunctionReplyT& reply) {
  MOULT_RETURN_IF_ERROR(CheckInfo(Path(at, "function"), reply.function.get()));
  MOULT_RETURN_IF_ERROR(CheckPhases(at, reply.phases));
  return CheckTexts(at, "notes", reply.notes, image::kMaxNotes, image::kMaxPath);
}

absl::Status Check(const Path& at, const CaptureReportT& report) {
  if (report.image.empty()) return at.BadField("image", "empty");
  if (report.manifest.empty()) return at.BadField("manifest", "empty");
  if (report.spec == nullptr) return at.BadField("spec", "missing");
  MOULT_RETURN_IF_ERROR(CheckSpec(Path(at, "spec"), *report.spec));
  if (!PageAligned(report.pages_size) || report.pages_size > image::kMaxPagesSize) {
    return at.BadField("pages_size", report.pages_size, " is not whole pages, or over the limit");
  }
  uint64_t total = 0;
  MOULT_RETURN_IF_ERROR(CheckRuns(at, "pages", report.pages, &total));
  // None at all: the content comes in data frames.
  if (!report.pages.empty() && total != report.pages_size) {
    return at.BadField("pages", total, " bytes, but pages_size is ", report.pages_size);
  }
  return CheckPhases(at, report.phases);
}

absl::Status Check(const Path& at, const DetachReportT& report) {
  MOULT_RETURN_IF_ERROR(CheckRising(at, "exclusive", report.exclusive));
  return CheckPhases(at, report.phases);
}

absl::Status Check(const Path& at, const PagesReportT& report) {
  if (report.run_count > kMaxPageRuns) return at.BadField("run_count", report.run_count, " is over the limit of ", kMaxPageRuns);
  MOULT_RETURN_IF_ERROR(CheckCount(at, "ram", report.ram, kMaxRamRanges));
  MOULT_RETURN_IF_ERROR(CheckRising(at, "ram", report.ram));
  MOULT_RETURN_IF_ERROR(CheckCount(at, "functions", report.functions, kMaxFunctions));
  std::set<uint64_t> ids;
  for (size_t i = 0; i < report.functions.size(); ++i) {
    const Path here(at, "functions", i);
    if (report.functions[i]->id == 0) return here.BadField("id", "0 names no function");
    if (!ids.insert(report.functions[i]->id).second) return here.BadField("id", "is there twice");
  }
  MOULT_RETURN_IF_ERROR(CheckCount(at, "processes", report.processes, kMaxPageProcesses));
  std::set<uint32_t> pids;
  for (size_t i = 0; i < report.processes.size(); ++i) {
    const Path here(at, "processes", i);
    if (!pids.insert(report.processes[i]->pid).second) return here.BadField("pid", "is there twice");
    MOULT_RETURN_IF_ERROR(CheckText(here, "comm", report.processes[i]->comm, kMaxShortText));
  }
  MOULT_RETURN_IF_ERROR(CheckTexts(at, "files", report.files, kMaxPageFiles, image::kMaxPath));
  return CheckPhases(at, report.phases);
}

absl::Status Check(const Path& at, const DoneT& done) { return CheckPhases(at, done.phases); }

}  // namespace

absl::Status CheckResponse(const ResponseT& response) {
  const ResponseBodyUnion& body = response.body;
  if (body.value == nullptr) return Path("response").BadField("body", "missing");
  const Path top("response");
  const Path at(top, EnumNameResponseBody(body.type));
  switch (body.type) {
    case ResponseBody::Error:
      return Check(at, *body.AsError());
    case ResponseBody::HelloReply:
      return Check(at, *body.AsHelloReply());
    case ResponseBody::DoctorReply:
      return Check(at, *body.AsDoctorReply());
    case ResponseBody::ListReply:
      return Check(at, *body.AsListReply());
    case ResponseBody::FunctionReply:
      return Check(at, *body.AsFunctionReply());
    case ResponseBody::CaptureReport:
      return Check(at, *body.AsCaptureReport());
    case ResponseBody::DetachReport:
      return Check(at, *body.AsDetachReport());
    case ResponseBody::Done:
      return Check(at, *body.AsDone());
    case ResponseBody::PagesReport:
      return Check(at, *body.AsPagesReport());
    default:
      return Path("response").BadField("body", static_cast<int>(body.type), " is unknown");
  }
}

}  // namespace moult::rpc::validate
