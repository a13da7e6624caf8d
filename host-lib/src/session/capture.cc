// SPDX-License-Identifier: Apache-2.0
//
// A running function becomes a template. What the agent reports is checked whole before anything is read, and
// the function stands still only while its pages are gathered; they are written when it runs again.
#include <time.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "memory/cut_runs.h"
#include "moult/base/status.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/validate.h"
#include "session/ops.h"
#include "session/page_plan.h"
#include "session/staged_pages.h"

namespace moult::host::ops {
namespace {

constexpr uint64_t kGatherStep = 2 << 20;  // between two looks at other operations
constexpr uint64_t kMaxCopyWithoutRam = 16ull << 30;
// The guest's kernel may move pages of a stopped process (compaction, huge pages being made): the agent sees
// that and says ABORTED at the end. It moves them once, so the next attempt finds them where they stay.
constexpr int kMaxAttempts = 3;

struct Captured {
  std::unique_ptr<image::ProcessImageT> image;
  std::unique_ptr<image::ManifestT> manifest;
  std::vector<rpc::GpaRun> pages;
  uint64_t pages_size = 0;
};

absl::Status CheckPages(Vm* vm, const Captured& captured, bool in_place) {
  if (!in_place) {
    if (!captured.pages.empty()) {
      return absl::DataLossError("the agent reports pages in place, but a copy was asked for");
    }
    const uint64_t most = vm->memory().empty() ? kMaxCopyWithoutRam : vm->memory().size();
    if (captured.pages_size <= most) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("the agent reports ", captured.pages_size, " bytes of pages, more than ", most));
  }
  if (captured.pages.empty() && captured.pages_size != 0) {
    return absl::DataLossError("the agent reports no pages in place, but bytes of them");
  }
  std::vector<rpc::GpaRun> sorted = captured.pages;
  std::sort(sorted.begin(), sorted.end(),
            [](const rpc::GpaRun& a, const rpc::GpaRun& b) { return a.gpa() < b.gpa(); });
  uint64_t end = 0;
  for (const rpc::GpaRun& run : sorted) {
    // One page twice would let a small guest fill the store.
    if (run.gpa() < end) {
      return absl::DataLossError(
          absl::StrCat("the agent reports the page at guest-physical ", run.gpa(), " twice"));
    }
    end = run.gpa() + run.length();
    const auto memory = vm->GuestView({GuestPhys(run.gpa()), run.length()});
    if (!memory.ok()) {
      return absl::DataLossError(
          absl::StrCat("the agent reports pages that are neither the guest's RAM nor a template's: ",
                       memory.status().message()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Captured> Check(Vm* vm, rpc::CaptureReportT report, bool in_place) {
  Captured captured;
  const auto text = [](const std::vector<uint8_t>& bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  MOULT_ASSIGN_OR_RETURN(captured.image, image::ParseImage(text(report.image)));
  MOULT_RETURN_IF_ERROR(image::ValidateImage(*captured.image, report.pages_size));
  MOULT_ASSIGN_OR_RETURN(captured.manifest, image::ParseDraftManifest(text(report.manifest)));
  captured.pages = std::move(report.pages);
  CutAtRegions(vm->memory(), &captured.pages);
  captured.pages_size = report.pages_size;
  MOULT_RETURN_IF_ERROR(CheckPages(vm, captured, in_place));
  const std::string spec = rpc::SerializeFunctionSpec(*report.spec);
  captured.manifest->function.assign(spec.begin(), spec.end());
  captured.manifest->tenant = vm->config().tenant;
  // By our clock: the guest's is its own.
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  captured.manifest->created_realtime_ns = now.tv_sec * 1000000000 + now.tv_nsec;
  return captured;
}

Task<absl::Status> Gather(Vm* vm, Op* op, const Captured* captured, PagePlan* plan, StagedPages* to) {
  uint64_t since_yield = 0;
  for (const rpc::GpaRun& run : captured->pages) {
    for (uint64_t at = 0; at < run.length();) {
      const uint64_t step = std::min(run.length() - at, kGatherStep);
      const GuestRange range{GuestPhys(run.gpa() + at), step};
      MOULT_CO_RETURN_IF_ERROR(vm->Populate(range));
      MOULT_CO_ASSIGN_OR_RETURN(const auto memory, vm->GuestView(range));
      MOULT_CO_RETURN_IF_ERROR(to->Take(memory, plan));
      at += step;
      since_yield += step;
      if (since_yield < kGatherStep) continue;
      since_yield = 0;
      MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Yield());
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Receive(Op* op, Connection* connection, const Captured* captured, PagePlan* plan,
                           StagedPages* to) {
  std::vector<std::byte> buffer(std::min(captured->pages_size, kGatherStep));
  // What cannot be kept is taken in all the same: not every vsock device tells a sender that nobody reads any
  // more.
  absl::Status kept;
  for (uint64_t at = 0; at < captured->pages_size; at += kGatherStep) {
    const auto piece = absl::MakeSpan(buffer).first(std::min(kGatherStep, captured->pages_size - at));
    MOULT_CO_RETURN_IF_ERROR(co_await connection->ReceiveData(op->strand(), piece));
    connection->Break();  // Good again with the answer to CaptureEnd.
    if (kept.ok()) kept = to->Take(piece, plan);
  }
  co_return kept;
}

// How long the agent says that it took since it began to answer Capture, in microseconds.
Task<absl::StatusOr<uint64_t>> End(Op* op, Connection* connection, rpc::CaptureOutcome outcome) {
  rpc::CaptureEndT end;
  end.outcome = outcome;
  auto done = co_await connection->Call<rpc::DoneT>(op->strand(), std::move(end));
  if (!done.ok()) co_return done.status();
  op->AddAgentPhases(done->phases);
  uint64_t took_us = 0;
  for (const auto& phase : done->phases) took_us += phase->us;
  co_return took_us;
}

// `published`: the template is there, whatever comes after.
Task<absl::Status> CaptureOnce(Vm* vm, Op* op, const CaptureConfig* config_in, bool* published) {
  const CaptureConfig& config = *config_in;
  op->result().function = config.function;
  const bool in_place = config.pages != PageMode::kCopy && !vm->memory().empty();
  op->result().pages = in_place ? PageMode::kInPlace : PageMode::kCopy;
  const std::shared_ptr<Store> store = vm->config().store;
  MOULT_CO_ASSIGN_OR_RETURN(auto to, store->Create(config.name));
  StagedPages staged(&to->writer());
  while (staged.Prepare()) MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Yield());
  op->EndPhase("prepare");
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));

  rpc::CaptureT capture;
  capture.function = config.function;
  capture.mode = in_place ? rpc::PageMode::InPlace : rpc::PageMode::Copy;
  auto report =
      co_await lease->Call<rpc::CaptureReportT>(op->strand(), std::move(capture), rpc::kMaxResponse);
  if (!report.ok()) co_return report.status();
  // Whatever ends this before CaptureEnd was answered closes the connection, and that makes the agent let the
  // function go on.
  lease->Break();
  const auto stopped = Clock::now();
  op->result().stopped_us = report->stopped_us;
  op->AddAgentPhases(report->phases);
  op->EndPhase("await_report");

  auto captured = Check(vm, *std::move(report), in_place);
  if (!captured.ok()) co_return Annotate(captured.status(), "capture report");
  PagePlan plan(*captured->image, captured->pages_size);
  op->EndPhase("check");
  absl::Status gathered;
  if (in_place) {
    gathered = co_await Gather(vm, op, &*captured, &plan, &staged);
  } else {
    gathered = co_await Receive(op, &*lease, &*captured, &plan, &staged);
  }
  // Our own trouble, here and below: the agent is told, so that the function goes on at once.
  if (absl::IsResourceExhausted(gathered)) (void)co_await End(op, &*lease, rpc::CaptureOutcome::Resume);
  if (!gathered.ok()) co_return gathered;
  op->EndPhase("gather");

  if (!config.end) {
    MOULT_CO_ASSIGN_OR_RETURN(const uint64_t by_agent,
                              co_await End(op, &*lease, rpc::CaptureOutcome::Resume));
    const auto by_us = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - stopped);
    // The report was on its way while the function stood still, which only the agent sees.
    op->result().stopped_us += std::max(by_agent, static_cast<uint64_t>(by_us.count()));
    op->EndPhase("resume");
    lease.Return();  // Others may use it while we write.
  } else {
    // A template that is published stays: so before that, is what was gathered what the function is?
    MOULT_CO_RETURN_IF_ERROR((co_await End(op, &*lease, rpc::CaptureOutcome::Check)).status());
    op->EndPhase("check_unmoved");
  }
  plan.Rewrite(captured->image.get());
  op->result().bytes = captured->pages_size - plan.dropped() * kPage;
  op->result().json["counters"] = {
      {"pages", captured->pages_size / kPage}, {"zero_pages", plan.dropped()}, {"bytes", op->result().bytes}};
  std::function<absl::Status()> work = [&] {
    MOULT_RETURN_IF_ERROR(staged.Write());
    return to->Publish(*captured->image, std::move(*captured->manifest));
  };
  const absl::Status made = co_await op->strand()->Work(std::move(work));
  if (config.end && absl::IsResourceExhausted(made)) {
    (void)co_await End(op, &*lease, rpc::CaptureOutcome::Resume);
  }
  if (!made.ok()) co_return made;
  op->EndPhase("publish");
  *published = true;

  if (config.end) {
    // The template is durable. A function that could not be ended runs on, and the template stays: say both.
    const absl::Status ended = (co_await End(op, &*lease, rpc::CaptureOutcome::End)).status();
    op->EndPhase("end");
    if (!ended.ok())
      co_return Annotate(ended, absl::StrCat("template ", config.name, " is written; end the function"));
    vm->FunctionGone(config.function);
    op->result().detached = true;
  }
  op->result().json["stopped_us"] = op->result().stopped_us;
  const auto there = store->Read(config.name);
  if (there.ok()) op->result().json["template"] = ToJson(**there);
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::Status> Capture(Vm* vm, Op* op, CaptureConfig config) {
  if (vm->moving().contains(config.function)) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("function ", config.function, ": an offload or recall of it goes on; try again when it has ended"));
  }
  // Not while it stands still.
  MOULT_CO_RETURN_IF_ERROR(co_await BringBack(vm, op, config.function));
  for (int attempt = 1;; ++attempt) {
    bool published = false;
    absl::Status status = co_await CaptureOnce(vm, op, &config, &published);
    if (!absl::IsAborted(status) || published || attempt == kMaxAttempts) co_return status;
  }
}

}  // namespace moult::host::ops
