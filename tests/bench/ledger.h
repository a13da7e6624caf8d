// SPDX-License-Identifier: Apache-2.0
//
// What the page ledger costs, against reading what it reads and no more, in turns with that in the same process: on this
// machine, as an agent would in a guest.
#ifndef MOULT_BENCH_LEDGER_H_
#define MOULT_BENCH_LEDGER_H_

#include <string>

namespace moult::bench {

struct LedgerArguments {
  std::string json;
  std::string cgroup;  // a folder of cgroup v2; empty: where that is mounted
  std::string state = "/run/moult";  // the agent's state_dir; where there is none, nothing is a function's
  int rounds = 7;
};

int RunLedger(const LedgerArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_LEDGER_H_
