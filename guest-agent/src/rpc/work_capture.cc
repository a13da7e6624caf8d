// SPDX-License-Identifier: Apache-2.0
//
// Capture: the function stands still while the host takes what it is.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "function/ready.h"
#include "image/capture.h"
#include "ledger/exclusive.h"
#include "ledger/pipes.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "proc/read.h"
#include "rpc/streamed_pages.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

constexpr std::chrono::seconds kEndTime{60};  // for a function that was killed

std::vector<uint8_t> Bytes(const std::string& text) { return {text.begin(), text.end()}; }

std::unique_ptr<rpc::FunctionSpecT> SpecOf(const Worker& worker) {
  return std::make_unique<rpc::FunctionSpecT>(*worker.function->info.spec);
}

// Waits for the CaptureEnd that ends it: whether the function is to end. kCancelled: the host has gone.
// `check` says whether what was reported still holds, and has succeeded before the function is ended.
absl::StatusOr<bool> AwaitOutcome(Worker& worker, uint64_t* end_call,
                                  const std::function<absl::Status()>& check) {
  for (bool checked = false;;) {
    MOULT_ASSIGN_OR_RETURN(const auto request, worker.AwaitEnd(rpc::RequestBody::CaptureEnd, end_call));
    const rpc::CaptureOutcome outcome = request->body.AsCaptureEnd()->outcome;
    if (outcome == rpc::CaptureOutcome::Resume) return false;
    if (!checked) MOULT_RETURN_IF_ERROR(check());
    checked = true;
    if (outcome == rpc::CaptureOutcome::End) return true;
    MOULT_RETURN_IF_ERROR(
        worker.channel.Respond(*end_call, rpc::MakeResponse(rpc::DoneT{}), worker.MessageDeadline()));
    *end_call = 0;
  }
}

absl::Status SendPages(Worker& worker, const std::string& path, uint64_t size) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  std::vector<std::byte> piece(rpc::kMaxDataFrame);
  for (uint64_t at = 0; at < size;) {
    const ssize_t n = pread(fd.get(), piece.data(), piece.size(), static_cast<off_t>(at));
    if (n <= 0) return ErrnoStatus(n < 0 ? errno : EIO, absl::StrCat("read ", path));
    MOULT_RETURN_IF_ERROR(worker.SendData({piece.data(), static_cast<size_t>(n)}));
    at += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

// The phases so far go with the report, those from now on with Done: the function stands still in all of
// these.
std::vector<std::unique_ptr<rpc::PhaseT>> TakePhases(Worker& worker) {
  auto phases = ToPhases(worker.phases);
  worker.phases = engine::Phases();
  return phases;
}

absl::Status SendCopy(Worker& worker, const std::string& folder, uint64_t stopped_us) {
  rpc::CaptureReportT report;
  report.phases = TakePhases(worker);
  MOULT_ASSIGN_OR_RETURN(const std::string image,
                         proc::ReadFile(absl::StrCat(folder, "/", image::kImageFile)));
  MOULT_ASSIGN_OR_RETURN(const std::string manifest,
                         proc::ReadFile(absl::StrCat(folder, "/", image::kManifestFile)));
  const std::string pages = absl::StrCat(folder, "/", image::kPagesFile);
  struct stat st {};
  if (stat(pages.c_str(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", pages));
  report.image = Bytes(image);
  report.manifest = Bytes(manifest.substr(image::kManifestHeaderSize));
  report.spec = SpecOf(worker);
  report.pages_size = static_cast<uint64_t>(st.st_size);
  report.stopped_us = stopped_us;
  MOULT_RETURN_IF_ERROR(worker.Respond(rpc::MakeResponse(std::move(report))));
  MOULT_RETURN_IF_ERROR(SendPages(worker, pages, static_cast<uint64_t>(st.st_size)));
  worker.phases.End("report");
  return absl::OkStatus();
}

// What came of the part that the host takes part in.
struct Ending {
  bool end = false;   // the function is to end
  uint64_t call = 0;  // of CaptureEnd; 0: it did not come
  absl::Status status;
  absl::Status wiped;  // when it is to end
};

// The function stands still and is killed next: no host discards its pages, so they are wiped here.
absl::Status Wipe(const Worker& worker) {
  absl::Status wiped = WipeExclusive(worker.function->init_pid);
  wiped.Update(WipePipes(worker.function->init_pid));
  return Annotate(wiped, "the function has ended, but not all of its memory was wiped");
}

// Whether it answered or not, the host may have gone: then the function runs on.
absl::Status Close(Worker& worker, const absl::Status& captured, const Ending& ending) {
  if (!worker.answered) return captured;
  if (ending.call == 0) return captured.ok() ? ending.status : captured;
  rpc::ResponseT response;
  if (captured.ok() && !ending.wiped.ok()) {
    response = rpc::ErrorResponse(ending.wiped);
  } else if (captured.ok()) {
    rpc::DoneT done;
    done.phases = ToPhases(worker.phases);
    response = rpc::MakeResponse(std::move(done));
  } else {
    response = rpc::ErrorResponse(captured);
  }
  if (ending.end && captured.ok()) {
    // When Done comes, its end is known here as well.
    Watch watch;
    watch.deadline = Clock::now() + kEndTime;
    worker.Tell({.end_reason = "ended by its capture"});
    (void)Wait(watch, worker.function->init_pidfd.get(), POLLIN);
  }
  worker.Tell({.done = true});
  return worker.channel.Respond(ending.call, response, worker.MessageDeadline());
}

absl::Status CaptureCopy(Worker& worker, engine::KnownDigests& known, Ending& ending) {
  const std::string folder = worker.function->folder + "/capture";
  WipeFolder(folder);  // of a worker that was killed
  const absl::Cleanup wipe = [&folder] { WipeFolder(folder); };
  const auto begins = Clock::now();
  engine::CaptureOptions options;
  options.known = &known;
  options.may_go_on = [&worker] { return worker.MayGoOn(); };
  options.may_end = [&](const engine::CaptureResult&) {
    worker.phases.End("capture");
    const auto stopped = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begins).count();
    ending.status = SendCopy(worker, folder, static_cast<uint64_t>(stopped));
    if (!ending.status.ok()) return false;
    auto end = AwaitOutcome(worker, &ending.call, [] { return absl::OkStatus(); });
    ending.status = end.status();
    ending.end = end.ok() && *end;
    if (ending.end) ending.wiped = Wipe(worker);
    return ending.end;
  };
  return engine::Capture(worker.function->info.pid, folder, options).status();
}

absl::Status CaptureInPlace(Worker& worker, engine::KnownDigests& known, Ending& ending) {
  engine::CaptureOptions options;
  options.known = &known;
  options.may_go_on = [&worker] { return worker.MayGoOn(); };
  const auto deliver = [&](const engine::StoppedProcess& process) -> absl::StatusOr<engine::CaptureOutcome> {
    worker.phases.Take(process.so_far.phases);
    rpc::CaptureReportT report;
    report.phases = TakePhases(worker);
    report.image = Bytes(image::SerializeImage(process.image));
    report.manifest = Bytes(image::SerializeManifest(process.manifest));
    report.spec = SpecOf(worker);
    for (const engine::GpaRun& run : process.pages) report.pages.emplace_back(run.gpa, run.length);
    report.pages_size = process.pages_size;
    report.stopped_us = process.so_far.stopped_us;
    ending.status = worker.Respond(rpc::MakeResponse(std::move(report)));
    MOULT_RETURN_IF_ERROR(ending.status);
    worker.phases.End("report");
    auto end = AwaitOutcome(worker, &ending.call, process.check_unmoved);
    worker.phases.End("host");
    ending.status = end.status();
    MOULT_RETURN_IF_ERROR(ending.status);
    ending.end = *end;
    if (*end) ending.wiped = Wipe(worker);
    return *end ? engine::CaptureOutcome::kEnd : engine::CaptureOutcome::kResume;
  };
  return engine::CaptureInPlace(worker.function->info.pid, options, deliver).status();
}

}  // namespace

absl::Status DoCapture(Worker& worker) {
  Function& function = *worker.function;
  const bool was_frozen = function.info.state == rpc::FunctionState::Frozen;
  // Now already, so that one that is frozen need not run for it.
  engine::KnownDigests known;
  known.Learn(function.info.pid, [&worker] { return worker.MayGoOn(); });
  worker.phases.End("digest files");
  // Its threads run the engine's programs, which a frozen cgroup would not let them; it is stopped by ptrace.
  if (was_frozen) MOULT_RETURN_IF_ERROR(function.cgroup->Thaw());
  absl::Status status =
      RunHook(function, function.info.spec->before_capture.get(), "before_capture", worker.MakeWatch());
  worker.phases.End("before_capture");
  worker.Tell({.state = rpc::FunctionState::Capturing});
  Ending ending;
  if (status.ok()) {
    const bool copy = worker.request.body.AsCapture()->mode == rpc::PageMode::Copy;
    status = copy ? CaptureCopy(worker, known, ending) : CaptureInPlace(worker, known, ending);
  }
  worker.phases.End(ending.end ? "end" : "resume");
  if (was_frozen && !(ending.end && status.ok()))
    (void)function.cgroup->Freeze(Clock::now() + std::chrono::seconds(5));
  if (!(ending.end && status.ok())) worker.Tell({.state = function.info.state});
  return Close(worker, worker.Explain(status), ending);
}

}  // namespace moult::agent
