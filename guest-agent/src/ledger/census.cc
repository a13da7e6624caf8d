// SPDX-License-Identifier: Apache-2.0
#include "ledger/census.h"

#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/strip.h"
#include "function/record.h"
#include "proc/read.h"
#include "proc/text.h"

namespace moult::agent {
namespace {

std::string CommOf(pid_t pid) {
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/comm"));
  return text.ok() ? std::string(absl::StripSuffix(proc::ToAbsl(*text), "\n")) : std::string();
}

absl::Status AddFunction(const std::string& cgroup_root, const Function& function, Census& census) {
  const std::string name = absl::StrCat(function.info.id);
  struct stat st {};
  // Without this Open would make the cgroup.
  if (stat(absl::StrCat(cgroup_root, "/", name).c_str(), &st) < 0) return absl::OkStatus();
  Household household;
  household.id = function.info.id;
  household.folder = function.folder;
  MOULT_ASSIGN_OR_RETURN(household.cgroup, Cgroup::Open(cgroup_root, name));
  household.frozen = household.cgroup->IsFrozen();
  MOULT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, household.cgroup->Processes());
  for (const pid_t pid : pids) {
    const bool user = !function.shell && pid != function.init_pid;
    census.processes.push_back({pid, CommOf(pid), function.shell ? 0 : function.info.id, user});
  }
  if (function.shell) return absl::OkStatus();
  census.by_cgroup[st.st_ino] = household.id;
  census.functions.push_back(std::move(household));
  return absl::OkStatus();
}

absl::Status AddOthers(Census& census) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<int> all, proc::ListNumeric("/proc"));
  std::vector<Resident> others;
  for (const int pid : all) {
    const bool known = std::any_of(census.processes.begin(), census.processes.end(),
                                   [pid](const Resident& one) { return one.pid == pid; });
    if (!known) others.push_back({pid, CommOf(pid), 0, false});
  }
  census.processes.insert(census.processes.end(), others.begin(), others.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Census> TakeCensus(const std::string& cgroup_root, const std::string& functions_dir, uint64_t only) {
  Census census;
  std::vector<std::string> unreadable;  // of functions that are being made or removed
  for (const auto& function : LoadAll(functions_dir, &unreadable)) {
    if (only != 0 && function->info.id != only) continue;
    MOULT_RETURN_IF_ERROR(AddFunction(cgroup_root, *function, census));
  }
  if (only != 0 && census.functions.empty()) return absl::NotFoundError(absl::StrCat("function ", only, " has no cgroup"));
  if (only == 0) MOULT_RETURN_IF_ERROR(AddOthers(census));
  std::sort(census.processes.begin(), census.processes.end(),
            [](const Resident& a, const Resident& b) { return a.pid < b.pid; });
  std::sort(census.functions.begin(), census.functions.end(),
            [](const Household& a, const Household& b) { return a.id < b.id; });
  return census;
}

}  // namespace moult::agent
