// SPDX-License-Identifier: Apache-2.0
//
// The PageRuns of a page report, which come as data frames and so past the FlatBuffers verifier.
#ifndef MOULT_PROTOCOL_PAGE_RUNS_H_
#define MOULT_PROTOCOL_PAGE_RUNS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "moult/protocol/rpc_generated.h"

namespace moult::rpc {

static_assert(sizeof(PageRun) == 56, "a data frame has them in this layout");

// The rules of spec.md. `report` is what they belong to, and has been checked; `runs` are all of it. kDataLoss names the
// run and the field.
absl::Status CheckPageRuns(const PagesReportT& report, absl::Span<const PageRun> runs);

}  // namespace moult::rpc

#endif  // MOULT_PROTOCOL_PAGE_RUNS_H_
