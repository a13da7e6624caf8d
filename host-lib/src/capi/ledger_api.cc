// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include "capi/capi.h"
#include "ledger/page_ledger.h"
#include "moult/pages.h"
#include "session/op.h"

using moult::capi::Guarded;
using moult::host::PageLedger;
using moult::rpc::PageRun;

namespace {

// The C structure is the message's.
static_assert(sizeof(moult_page_run) == sizeof(PageRun));
static_assert(offsetof(moult_page_run, function) == 32 && offsetof(moult_page_run, pid) == 40 &&
              offsetof(moult_page_run, page_class) == 48 && offsetof(moult_page_run, flags) == 52);

const moult_page_run* AsRun(const PageRun* run) {
  // SAFETY: both are the same plain numbers at the same places; only ever read.
  return reinterpret_cast<const moult_page_run*>(run);
}

absl::StatusOr<const PageLedger*> LedgerOf(const moult_op* op) {
  if (op == nullptr) return absl::InvalidArgumentError("op is NULL");
  if (op->op->result().ledger == nullptr || !op->op->done()) {
    return absl::NotFoundError("the operation has no page ledger: it is no moult_vm_pages, is running, or has failed");
  }
  return op->op->result().ledger.get();
}

}  // namespace

extern "C" {

int moult_op_pages(const struct moult_op* op, const struct moult_page_run** runs, size_t* count) {
  return Guarded([&]() -> absl::Status {
    if (runs == nullptr || count == nullptr) return absl::InvalidArgumentError("runs or count is NULL");
    MOULT_ASSIGN_OR_RETURN(const PageLedger* ledger, LedgerOf(op));
    *runs = AsRun(ledger->runs().data());
    *count = ledger->runs().size();
    return absl::OkStatus();
  });
}

int moult_op_page_at(const struct moult_op* op, uint64_t gpa, const struct moult_page_run** run) {
  return Guarded([&]() -> absl::Status {
    if (run == nullptr) return absl::InvalidArgumentError("run is NULL");
    MOULT_ASSIGN_OR_RETURN(const PageLedger* ledger, LedgerOf(op));
    const PageRun* found = ledger->Find(moult::host::GuestPhys(gpa));
    if (found == nullptr) return absl::NotFoundError("the ledger has no such page");
    *run = AsRun(found);
    return absl::OkStatus();
  });
}

const char* moult_op_page_file(const struct moult_op* op, uint32_t file) {
  const auto ledger = LedgerOf(op);
  if (!ledger.ok() || file == 0 || file > (*ledger)->report().files.size()) return "";
  return (*ledger)->report().files[file - 1].c_str();
}

int moult_pages_compare(const struct moult_op* before, const struct moult_op* after,
                        void (*each)(void* user, const struct moult_page_change* change), void* user) {
  return Guarded([&]() -> absl::Status {
    if (each == nullptr) return absl::InvalidArgumentError("each is NULL");
    MOULT_ASSIGN_OR_RETURN(const PageLedger* first, LedgerOf(before));
    MOULT_ASSIGN_OR_RETURN(const PageLedger* second, LedgerOf(after));
    moult::host::Compare(*first, *second, [&](const moult::host::PageChange& change) {
      const moult_page_change ours = {change.range.first(), change.range.length, AsRun(change.before), AsRun(change.after)};
      each(user, &ours);
    });
    return absl::OkStatus();
  });
}

}  // extern "C"
