// SPDX-License-Identifier: Apache-2.0
//
// Pages: the page ledger.
#include "ledger/page_ledger.h"
#include "rpc/worker.h"

namespace moult::agent {
absl::Status DoPages(Worker& worker) {
  LedgerOptions options;
  options.cgroup_root = worker.config.cgroup_root;
  options.functions_dir = worker.config.state_dir + "/functions";
  options.function = worker.request.body.AsPages()->function;
  options.may_go_on = [&worker] { return worker.MayGoOn(); };
  MOULT_ASSIGN_OR_RETURN(PageLedger ledger, MakeLedger(options, worker.phases));
  ledger.report.phases = ToPhases(worker.phases);
  worker.Tell({.done = true});
  MOULT_RETURN_IF_ERROR(worker.Respond(rpc::MakeResponse(std::move(ledger.report))));
  return worker.SendData(
      {reinterpret_cast<const std::byte*>(ledger.runs.data()), ledger.runs.size() * sizeof(rpc::PageRun)});
}

}  // namespace moult::agent
