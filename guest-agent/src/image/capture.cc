// SPDX-License-Identifier: Apache-2.0
#include "image/capture.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "image/capture_context.h"
#include "image/files.h"
#include "image/host.h"
#include "image/page_stage.h"
#include "image/version.h"
#include "moult/protocol/template_writer.h"
#include "proc/numa_maps.h"
#include "proc/read.h"
#include "ptrace/tracee.h"
#include "ptrace/wait.h"
#include "resource/fd/capture.h"
#include "resource/memory/capture.h"
#include "resource/private_file/private_file.h"
#include "resource/process/capture.h"
#include "resource/signal/capture.h"
#include "resource/sysv_ipc/capture.h"
#include "resource/thread/capture.h"
#include "resource/thread/check.h"
#include "resource/timer/capture.h"
#include "resource/unix_socket/diag.h"

namespace moult::engine {
namespace {

// What the heap grows by while a process is stopped, by measure and with some to spare.
constexpr size_t kHeap = 1u << 20;
constexpr size_t kHeapPerThread = 12u << 10;
constexpr size_t kHeapPerVma = 512;

absl::Status Interrupted() { return absl::CancelledError("given up on request; nothing was changed"); }

uint64_t ExpectedPrivateBytes(const proc::Status& status) { return status.rss_anon + status.vm_swap + status.rss_shmem; }

absl::Status ReadOwnFiles(CaptureContext& context) {
  MOULT_ASSIGN_OR_RETURN(const std::string status, proc::ReadFile(context.ProcPath("status")));
  MOULT_ASSIGN_OR_RETURN(context.status, proc::ParseStatus(status));
  MOULT_ASSIGN_OR_RETURN(const std::string stat, proc::ReadFile(context.ProcPath("stat")));
  MOULT_ASSIGN_OR_RETURN(context.stat, proc::ParseStat(stat));
  return absl::OkStatus();
}

// Faults taken now are not taken while the process is stopped: the heap keeps what it once had.
void WarmHeap(size_t bytes) {
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  void* memory = std::malloc(std::min<size_t>(bytes, 32u << 20));
  if (memory == nullptr) return;
  std::memset(memory, 0, std::min<size_t>(bytes, 32u << 20));
  __asm__ volatile("" : : "r"(memory) : "memory");
  std::free(memory);
}

// Asks every thread at once what only it can tell; the leader also speaks for the process.
absl::Status AskProcessItself(CaptureContext& context, const std::vector<proc::SmapsEntry>& layout) {
  const proc::SmapsEntry* vdso = nullptr;
  for (const proc::SmapsEntry& entry : layout) {
    if (entry.path == "[vdso]") vdso = &entry;
  }
  if (vdso == nullptr) return Refuse("it has no vdso mapping", "restart the process");
  MOULT_ASSIGN_OR_RETURN(const uint64_t gadget, VdsoSyscallOffset());
  context.tracee.SetSyscallGadget(ptrace::RemotePtr(vdso->start + gadget));
  const size_t count = context.tracee.threads().size();
  std::vector<ptrace::ProgramBuilder> programs(count);
  std::vector<ThreadQuestions> threads;
  std::vector<ptrace::ThreadProgram> runs;
  for (size_t i = 0; i < count; ++i) {
    threads.push_back(AskThread(programs[i]));
    runs.push_back({i, &programs[i]});
  }
  const SignalQuestions signals = AskSignals(programs[0]);
  MOULT_ASSIGN_OR_RETURN(const TimerQuestions timers, AskTimers(context.pid(), programs[0]));
  const ProcessQuestions process = AskProcess(programs[0]);
  const SysvIpcQuestions sysv_ipc = AskSysvIpc(programs[0]);
  MOULT_ASSIGN_OR_RETURN(context.scratch_hint, FindHole(layout, 16u << 20));
  MOULT_ASSIGN_OR_RETURN(const auto results, context.tracee.RunPrograms(context.scratch_hint, runs));
  // At once: were we killed before, it would run on in the wrong place.
  MOULT_RETURN_IF_ERROR(context.tracee.PutBackAll());
  for (size_t i = 0; i < count; ++i) TakeAnswers(threads[i], results[i], context, i);
  TakeAnswers(signals, results[0], context.process);
  MOULT_RETURN_IF_ERROR(TakeAnswers(timers, results[0], context));
  MOULT_RETURN_IF_ERROR(TakeAnswers(process, results[0], context));
  return CheckSysvIpc(sysv_ipc, results[0], context);
}

absl::Status CaptureStopped(CaptureContext& context, const CaptureOptions& options, Phases& phases) {
  MOULT_RETURN_IF_ERROR(ReadOwnFiles(context));
  std::string root;
  MOULT_ASSIGN_OR_RETURN(context.image.sandboxed, CheckNamespaces(context, &root));
  context.files.set_root(root);
  constexpr uint64_t kTrapBit = uint64_t{1} << (SIGTRAP - 1);
  if (((context.status.sig_pending | context.status.shared_pending) & kTrapBit) != 0) {
    return Refuse("a SIGTRAP is pending for it", "let it handle the signal");
  }
  context.tracee.set_ignores_trap((context.status.ignored & kTrapBit) != 0);
  MOULT_RETURN_IF_ERROR(CheckAlone(context));
  MOULT_RETURN_IF_ERROR(CheckThreadsShareAll(context));
  MOULT_RETURN_IF_ERROR(CheckThreadModes(context));
  std::vector<proc::SmapsEntry> read_now;
  if (context.before.layout() == nullptr) {
    MOULT_ASSIGN_OR_RETURN(read_now, ReadLayout(context.pid()));
  }
  const std::vector<proc::SmapsEntry>& layout = context.before.layout() != nullptr ? *context.before.layout() : read_now;
  phases.End("layout");
  if (!options.may_go_on()) return Interrupted();
  MOULT_RETURN_IF_ERROR(CapturePages(context, layout));
  phases.End("find pages");
  MOULT_RETURN_IF_ERROR(CaptureProcess(context));
  MOULT_RETURN_IF_ERROR(CaptureThreads(context));
  MOULT_RETURN_IF_ERROR(CheckSysvWaiters(context));
  MOULT_RETURN_IF_ERROR(CaptureSleeps(context));
  MOULT_RETURN_IF_ERROR(CapturePending(context.pid(), /*shared=*/true, context.process.pending));
  context.process.stopped = context.tracee.threads().front().group_stopped;
  phases.End("threads");
  if (!options.may_go_on()) return Interrupted();
  MOULT_RETURN_IF_ERROR(CaptureDescriptors(context));
  phases.End("descriptors");
  if (!options.may_go_on()) return Interrupted();
  MOULT_RETURN_IF_ERROR(CaptureMemory(context, layout));
  context.files.Finish();
  MOULT_RETURN_IF_ERROR(CapturePrivateFiles(context, options.may_go_on));
  phases.End("memory");
  if (!options.may_go_on()) return Interrupted();
  MOULT_RETURN_IF_ERROR(AskProcessItself(context, layout));
  phases.End("inside");
  MOULT_RETURN_IF_ERROR(context.pages.AwaitCopies());
  phases.End("copy pages");
  return absl::OkStatus();
}

image::ManifestT MakeManifest(const std::string& name, std::unique_ptr<image::RequirementsT> host, int64_t realtime_ns) {
  image::ManifestT manifest;
  manifest.tool_version = kVersion;
  manifest.created_realtime_ns = realtime_ns;
  manifest.requirements = std::move(host);
  manifest.name = name;
  manifest.boot_id = BootId();
  return manifest;
}

// A capture under way, until the process runs again or is ended.
struct Underway {
  std::unique_ptr<ptrace::Tracee> tracee;
  image::ProcessImageT image;
  std::unique_ptr<image::RequirementsT> host;
  KnownDigests own;
  KnownDigests* known = &own;
  CaptureResult result;
  bool was_alive = false;  // it was there and could be captured, when that began

  image::ProcessT& process() { return *image.processes.front(); }
};

absl::StatusOr<proc::Status> ReadStatus(pid_t pid) {
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat("/proc/", pid, "/status")));
  return proc::ParseStatus(text);
}

absl::StatusOr<proc::Status> Prepare(pid_t pid, const CaptureOptions& options, Underway& capture) {
  capture.result.pid = pid;
  // First of all, because every message names it.
  if (const auto seen = ReadStatus(pid); seen.ok()) capture.result.name = seen->name;
  MOULT_RETURN_IF_ERROR(CheckCapturable(pid));
  capture.was_alive = true;
  if (options.known != nullptr) capture.known = options.known;
  capture.known->Learn(pid, options.may_go_on);
  capture.result.phases.End("digest files");
  MOULT_ASSIGN_OR_RETURN(proc::Status before, ReadStatus(pid));
  capture.result.name = before.name;
  MOULT_ASSIGN_OR_RETURN(capture.host, DescribeHost());
  capture.image.processes.push_back(std::make_unique<image::ProcessT>());
  capture.process().memory = std::make_unique<image::MemoryMapT>();
  return before;
}

// Whether mappings have memory policies of their own (mbind): without them all show that of the thread. It is only for a
// note, and costs a walk of the page tables: so it is asked before the stop, and where the kernel cannot tell, it is no.
bool HasMappingPolicies(pid_t pid) {
  const auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/numa_maps"));
  if (!text.ok()) return false;
  const auto policies = proc::ParseNumaPolicies(*text);
  return policies.ok() && policies->size() > 1;
}

// Stops the process and takes it apart; `*root` is put before the paths of its files.
absl::Status Stop(pid_t pid, const proc::Status& before, const CaptureOptions& options, PageSink& pages, Underway& capture, std::string* root) {
  capture.result.phases.End("prepare");
  if (!options.may_go_on()) return Interrupted();
  auto restarted_sleeps = RestartedSleeps(pid);
  auto cancelled_timers = CancelledTimers::Before();
  LoadUnixDiag();
  const bool mapping_policies = HasMappingPolicies(pid);
  Before asked = Before::Ask(pid);
  WarmHeap(kHeap + static_cast<uint64_t>(before.threads) * kHeapPerThread + asked.vmas() * kHeapPerVma);
  capture.result.phases.End("ask before");
  MOULT_ASSIGN_OR_RETURN(capture.tracee, ptrace::Tracee::SeizeAll(pid));
  capture.result.phases.End("stop");
  capture.result.asked_before = asked.Settle(*capture.tracee);
  CaptureContext context(*capture.tracee, asked, pages, capture.image, capture.process());
  if (mapping_policies) context.Note("its memory comes back with the default memory policy (mbind)");
  context.restarted_sleeps = std::move(restarted_sleeps);
  context.cancelled_timers = std::move(cancelled_timers);
  MOULT_RETURN_IF_ERROR(CaptureStopped(context, options, capture.result.phases));
  *root = context.files.root();
  return absl::OkStatus();
}

uint64_t StoppedMicros(const Underway& capture) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Phases::Clock::now() - capture.tracee->stopped_since()).count());
}

// Pages that the process itself could not read were staged after the others.
void SortRuns(Underway& capture) {
  auto& runs = capture.process().memory->runs;
  std::sort(runs.begin(), runs.end(), [](const image::PageRun& a, const image::PageRun& b) { return a.start() < b.start(); });
}

absl::Status RefuseChanged(const std::vector<std::string>& changed) {
  if (changed.empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("file ", changed.front(), " was written to or replaced during the dump; try again when nobody writes to it"));
}

void Summarise(Underway& capture, uint64_t user_state_bytes) {
  CaptureResult& result = capture.result;
  result.user_state_bytes = user_state_bytes;
  result.threads = capture.process().threads.size();
  result.vmas = capture.process().memory->vmas.size();
  result.fds = capture.process().fds.size();
  result.notes = capture.image.notes;
  result.total_us = result.phases.TotalMicros();
}

absl::Status CaptureTo(pid_t pid, const std::string& dir, const CaptureOptions& options, Underway& capture) {
  CaptureResult& result = capture.result;
  MOULT_ASSIGN_OR_RETURN(const proc::Status before, Prepare(pid, options, capture));
  MOULT_ASSIGN_OR_RETURN(auto writer, image::TemplateWriter::Create(dir));
  MOULT_ASSIGN_OR_RETURN(auto pages, PageStage::Create(*writer, ExpectedPrivateBytes(before)));
  std::string root;
  MOULT_RETURN_IF_ERROR(Stop(pid, before, options, *pages, capture, &root));
  if (options.leave_running) MOULT_RETURN_IF_ERROR(capture.tracee->Detach());
  result.stopped_us = StoppedMicros(capture);
  result.phases.End("resume");

  MOULT_RETURN_IF_ERROR(pages->Finish());
  SortRuns(capture);
  result.phases.End("write pages");
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> changed, DigestFiles(root, *capture.known, capture.image));
  // A process that runs on may have written to them itself.
  if (!options.leave_running) MOULT_RETURN_IF_ERROR(RefuseChanged(changed));
  for (const std::string& path : changed) {
    capture.image.notes.push_back(absl::StrCat("file ", path, " changed after the process ran on, so a restore will be refused: the template needs it as it was"));
  }
  result.phases.End("digest other files");
  if (!options.may_go_on()) return Interrupted();
  MOULT_RETURN_IF_ERROR(writer->Commit(capture.image, MakeManifest(result.name, std::move(capture.host), capture.image.realtime_ns)));
  result.phases.End("commit");
  // Ended only now: had anything failed before, the process would have run on.
  if (!options.leave_running) {
    result.stopped_us = StoppedMicros(capture);
    Summarise(capture, writer->pages_size());
    MOULT_RETURN_IF_ERROR(options.may_end(result) ? capture.tracee->Kill() : capture.tracee->Detach());
    result.stopped_us = StoppedMicros(capture);
  }
  result.phases.End("end process");
  Summarise(capture, writer->pages_size());
  return absl::OkStatus();
}

absl::Status CaptureReported(pid_t pid, const CaptureOptions& options,
                             const std::function<absl::StatusOr<CaptureOutcome>(const StoppedProcess&)>& deliver, Underway& capture) {
  CaptureResult& result = capture.result;
  MOULT_ASSIGN_OR_RETURN(const proc::Status before, Prepare(pid, options, capture));
  PageReport pages;
  std::string root;
  MOULT_RETURN_IF_ERROR(Stop(pid, before, options, pages, capture, &root));
  SortRuns(capture);
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> changed, DigestFiles(root, *capture.known, capture.image));
  MOULT_RETURN_IF_ERROR(RefuseChanged(changed));
  result.phases.End("digest other files");
  image::ManifestT manifest = MakeManifest(result.name, std::move(capture.host), capture.image.realtime_ns);
  // Whoever writes the template fills them in; the schema wants them there.
  manifest.image = std::make_unique<image::ContentDigestT>();
  manifest.pages = std::make_unique<image::ContentDigestT>();
  result.stopped_us = StoppedMicros(capture);
  Summarise(capture, pages.size());
  MOULT_ASSIGN_OR_RETURN(const CaptureOutcome outcome, deliver({capture.image, manifest, pages.pages(), pages.size(), result,
                                                                 [&pages] { return pages.CheckUnmoved(); }}));
  result.phases.End("deliver");
  if (outcome == CaptureOutcome::kResume) MOULT_RETURN_IF_ERROR(pages.CheckUnmoved());
  result.phases.End("check unmoved");
  MOULT_RETURN_IF_ERROR(outcome == CaptureOutcome::kResume ? capture.tracee->Detach() : capture.tracee->Kill());
  result.stopped_us = StoppedMicros(capture);
  result.phases.End(outcome == CaptureOutcome::kResume ? "resume" : "end process");
  result.total_us = result.phases.TotalMicros();
  return absl::OkStatus();
}

// Of a process that is being killed the kernel says many things: no mappings, empty files, no permission.
absl::Status Explain(pid_t pid, const absl::Status& status, const Underway& capture) {
  const bool may_be = absl::IsInternal(status) || absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) || absl::IsPermissionDenied(status) || absl::IsNotFound(status);
  if (!may_be || !capture.was_alive || !ptrace::IsEnding(pid)) return status;
  return absl::UnavailableError(absl::StrCat("it ended meanwhile, or became another program (", WithoutRemedy(status), "); try again if it still runs"));
}

absl::StatusOr<CaptureResult> ResultOf(pid_t pid, const absl::Status& seen, Underway& capture) {
  if (seen.ok()) return std::move(capture.result);
  const absl::Status status = Explain(pid, seen, capture);
  const std::string& name = capture.result.name;
  return Annotate(status, name.empty() ? absl::StrCat("dump ", pid) : absl::StrCat("dump ", pid, " (", name, ")"));
}

}  // namespace

absl::StatusOr<CaptureResult> Capture(pid_t pid, const std::string& dir, const CaptureOptions& options) {
  Underway capture;
  const absl::Status status = CaptureTo(pid, dir, options, capture);
  return ResultOf(pid, status, capture);
}

absl::StatusOr<CaptureResult> CaptureInPlace(pid_t pid, const CaptureOptions& options,
                                             const std::function<absl::StatusOr<CaptureOutcome>(const StoppedProcess&)>& deliver) {
  Underway capture;
  const absl::Status status = CaptureReported(pid, options, deliver, capture);
  return ResultOf(pid, status, capture);
}

}  // namespace moult::engine
