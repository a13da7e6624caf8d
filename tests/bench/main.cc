// SPDX-License-Identifier: Apache-2.0
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <regex>

#include "attach.h"
#include "floor.h"
#include "json_file.h"
#include "ledger.h"
#include "pager.h"
#include "pools.h"
#include "recall.h"
#include "replay/commands.h"
#include "report.h"

namespace moult::bench {
namespace {

constexpr int kExitUsage = 2;

struct ImageArguments {
  std::string json;
  std::string only;
  std::string tool;
  std::string programs = std::filesystem::path(MOULT_BENCH_SOURCE_DIR).parent_path() / "programs";
  std::string work = "/tmp";
  int rounds = 0;
  bool quick = false;
};

int Fail(const std::string& message) {
  std::fprintf(stderr, "moult-bench: %s\n", message.c_str());
  return 1;
}

std::string Self() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof(path));
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : std::string();
}

int RunImage(const ImageArguments& arguments) {
  std::regex only;
  try {
    only = std::regex(arguments.only);
  } catch (const std::regex_error& error) {
    Fail(absl::StrCat("--only ", arguments.only, ": ", error.what()));
    return kExitUsage;
  }
  Places places;
  places.self = Self();
  places.tool = arguments.tool.empty() ? std::filesystem::path(places.self).parent_path() / "moult-image"
                                       : std::filesystem::absolute(arguments.tool);
  places.programs = arguments.programs;
  if (access(places.tool.c_str(), X_OK) < 0)
    return Fail(absl::StrCat(places.tool, " is not there; build it, or name it with --moult-image"));
  std::string work = absl::StrCat(arguments.work, "/moult-bench-XXXXXX");
  if (mkdtemp(work.data()) == nullptr)
    return Fail(ErrnoStatus(absl::StrCat("make a folder in ", arguments.work)).ToString());
  places.work = work;
  places.build = absl::StrCat(arguments.work, "/moult-bench-programs");
  // What a restore makes is an orphan: it must come to us to be reaped, or its pid stays taken.
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  // What our caller left open is no part of what we start.
  close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  // Looked for between steps, so that nothing is left behind.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, nullptr);

  const int rounds = arguments.rounds > 0 ? arguments.rounds : arguments.quick ? 3 : 7;
  std::vector<Measurement> measurements;
  PrintHeader(rounds);
  for (const Subject& subject : AllSubjects(arguments.quick)) {
    if (!std::regex_search(subject.name, only) || Interrupted()) continue;
    measurements.push_back(Measure(subject, places, rounds));
    PrintRow(measurements.back());
  }
  PrintSummary(measurements);
  std::filesystem::remove_all(work);
  if (const int failed_to_write = WriteJson(arguments.json, ReportJson(measurements, rounds)); failed_to_write != 0) return failed_to_write;
  bool any = false;
  bool failed = Interrupted();
  for (const Measurement& m : measurements) {
    any |= m.status.ok();
    failed |= !m.status.ok() && !absl::IsUnavailable(m.status);
  }
  return any && !failed ? 0 : 1;
}

int Main(int argc, char** argv) {
  CLI::App app{
      "Measures Moult against what the kernel alone takes for the same work, in the same run."};
  app.require_subcommand(1);

  ImageArguments image;
  auto* image_command =
      app.add_subcommand("image", "dump and restore: real programs, and victims of growing size");
  image_command->add_option("--json", image.json, "also write everything as JSON to this file");
  image_command->add_flag("--quick", image.quick, "python and small victims, 3 rounds");
  image_command->add_option("--only", image.only, "subjects whose name this regular expression is found in");
  image_command->add_option("--rounds", image.rounds, "default 7")->check(CLI::PositiveNumber);
  image_command->add_option("--moult-image", image.tool, "default: beside this program");
  image_command->add_option("--programs", image.programs, "tests/programs of the source tree")
      ->capture_default_str();
  image_command->add_option("--workdir", image.work, "where templates are written")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);

  AttachArguments attach;
  attach.bin = std::filesystem::path(Self()).parent_path();
  auto* attach_command = app.add_subcommand("attach", "attach in a real guest: what one more page of a template costs");
  attach_command->add_option("--json", attach.json, "also write everything as JSON to this file");
  attach_command->add_option("--control", attach.control,
                             "control socket of a VM; needs --payload bench/moult-bench=... and "
                             "bench/attach_bench=... of `moultctl vm`; by default one is booted");
  attach_command->add_option("--kernel", attach.kernel, "of the VM that is booted")->capture_default_str();
  attach_command->add_option("--rounds", attach.rounds, "attaches of each size")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  attach_command->add_option("--most", attach.most_mib, "MiB of the largest template; from 32 on each is twice the one before")
      ->capture_default_str()
      ->check(CLI::Range(64, 1024));
  attach_command->add_option("--workdir", attach.work, "where templates are written")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);

  const ReplayCommands replay = AddReplayCommands(app);

  PagerArguments pager;
  auto* pager_command = app.add_subcommand("pager", "offload and recall of guest pages, and the faults between");
  pager_command->add_option("--json", pager.json, "also write everything as JSON to this file");
  pager_command->add_option("--pool", pager.pool, "folder of the pool, and of the peer's file")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);
  pager_command->add_option("--rounds", pager.rounds)->capture_default_str()->check(CLI::PositiveNumber);
  pager_command->add_option("--mib", pager.mib, "moved at a time")->capture_default_str()->check(CLI::Range(1, 8192));

  PoolArguments pool;
  pool.bin = attach.bin;
  pool.sources = std::filesystem::path(MOULT_BENCH_SOURCE_DIR).parent_path() / "demo/functions";
  auto* pool_command = app.add_subcommand("pool", "attach from pools in a real guest: to the first answer, the working set, all pages");
  pool_command->add_option("--json", pool.json, "also write everything as JSON to this file");
  pool_command->add_option("--functions", pool.functions, "of python, node, java")
      ->delimiter(',')
      ->check(CLI::IsMember({"python", "node", "java"}))
      ->capture_default_str();
  pool_command->add_option("--dax", pool.dax, "also a dax: pool, on this device or file; made, where it is blank or not there");
  auto* rdma = pool_command->add_option("--rdma", pool.rdma, "also the pool of this moult-poold: rdma://HOST[:PORT]/");
  pool_command->add_option("--key", pool.key, "file with its key for templates without a tenant")->check(CLI::ExistingFile);
  rdma->needs("--key");
  pool_command->add_option("--kernel", pool.kernel, "of the VM that is booted")->capture_default_str();
  pool_command->add_option("--qemu", pool.qemu, "that boots it; to emulate its two CPUs take 8.1 or newer")->capture_default_str();
  pool_command->add_option("--rounds", pool.rounds)->capture_default_str()->check(CLI::PositiveNumber);
  pool_command->add_option("--prefetch-mib", pool.prefetch_mib, "MiB a second that are fetched behind what is touched")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  pool_command->add_option("--workdir", pool.work, "where templates are written")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);
  RecallArguments recall;
  recall.bin = attach.bin;
  recall.sources = pool.sources;
  auto* recall_command = app.add_subcommand("recall", "an offloaded function's first answer in a real guest, against attach from a template");
  recall_command->add_option("--json", recall.json, "also write everything as JSON to this file");
  recall_command->add_option("--functions", recall.functions, "of python, node, java")
      ->delimiter(',')
      ->check(CLI::IsMember({"python", "node", "java"}))
      ->capture_default_str();
  recall_command->add_option("--kernel", recall.kernel, "of the VM that is booted")->capture_default_str();
  recall_command->add_option("--rounds", recall.rounds)->capture_default_str()->check(CLI::PositiveNumber);
  recall_command->add_option("--workdir", recall.work, "where templates are written")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);

  LedgerArguments ledger;
  auto* ledger_command = app.add_subcommand("ledger", "whose every page of this machine's RAM is, against reading /proc");
  ledger_command->add_option("--json", ledger.json, "also write everything as JSON to this file");
  ledger_command->add_option("--cgroup", ledger.cgroup, "a folder of cgroup v2; by default the agents', or where it is mounted")->check(CLI::ExistingDirectory);
  ledger_command->add_option("--state", ledger.state, "the agent's state_dir, to know functions")->capture_default_str();
  ledger_command->add_option("--rounds", ledger.rounds)->capture_default_str()->check(CLI::PositiveNumber);

  VictimArguments victim;
  auto* victim_command = app.add_subcommand("victim", "")->group("");
  victim_command->add_option("--pages", victim.pages);
  victim_command->add_option("--threads", victim.threads);
  victim_command->add_option("--vmas", victim.vmas);
  victim_command->add_option("--fds", victim.fds);
  victim_command->add_flag("--line", victim.line);

  FloorArguments floor;
  auto* floor_command = app.add_subcommand("floor", "")->group("");
  floor_command->add_option("--copy-bytes", floor.copy_bytes);
  floor_command->add_option("--stop-threads", floor.stop_threads);
  floor_command->add_option("--look-fds", floor.look_fds);
  floor_command->add_option("--template", floor.template_dir);
  floor_command->add_option("--threads", floor.threads);
  floor_command->add_option("--fds", floor.fds);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (victim_command->parsed()) return RunVictim(victim);
  if (floor_command->parsed()) return RunFloor(floor);
  if (replay.policy->parsed()) return replay.run_policy();
  if (replay.trace->parsed()) return replay.run_trace();
  if (pager_command->parsed()) return RunPager(pager);
  if (pool_command->parsed()) return RunPools(pool);
  if (recall_command->parsed()) return RunRecall(recall);
  if (ledger_command->parsed()) return RunLedger(ledger);
  return attach_command->parsed() ? RunAttach(attach) : RunImage(image);
}

}  // namespace
}  // namespace moult::bench

int main(int argc, char** argv) { return moult::bench::Main(argc, argv); }
