// SPDX-License-Identifier: Apache-2.0
//
// The page ledger: whose every page of the guest's RAM is (../../../protocol/spec.md, "Page reports").
#ifndef MOULT_LEDGER_PAGE_LEDGER_H_
#define MOULT_LEDGER_PAGE_LEDGER_H_

#include <functional>
#include <string>
#include <vector>

#include "image/phases.h"
#include "moult/base/status.h"
#include "moult/protocol/message.h"
#include "moult/protocol/page_runs.h"

namespace moult::agent {

struct LedgerOptions {
  std::string cgroup_root;
  std::string functions_dir;
  uint64_t function = 0;                       // 0: all of RAM
  std::function<bool()> may_go_on = [] { return true; };
};

struct PageLedger {
  rpc::PagesReportT report;  // all but phases
  std::vector<rpc::PageRun> runs;
};

// Looks at everything once, and twice at functions that stand still. Needs root. kNotFound: no such function;
// kCancelled: may_go_on said no; kFailedPrecondition: the kernel, or this agent's configuration, lacks what it takes.
absl::StatusOr<PageLedger> MakeLedger(const LedgerOptions& options, engine::Phases& phases);

}  // namespace moult::agent

#endif  // MOULT_LEDGER_PAGE_LEDGER_H_
