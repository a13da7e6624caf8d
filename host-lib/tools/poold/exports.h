// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_EXPORTS_H_
#define MOULT_POOLD_EXPORTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backing.h"
#include "holding.h"
#include "pool/rdma/messages.h"
#include "pool/rdma/verbs.h"

namespace moult::poold {

// A push that is under way: memory that a client writes to.
struct Push {
  std::string name;
  Holding memory;
  host::rdma::MemoryRegion writable;
  host::rdma::Region region() const { return {0, writable->rkey, memory.layout()}; }
};

// The templates of a backing, and which of them are in memory that tenants read. What is not a tenant's own is not there
// for him: every call answers then as for a name that nobody has, but a push, which finds the name taken.
//
// A template is held against its digests, and in memory, when it is first opened. Safe for several threads. Blocks on what
// the templates lie on.
class Exports {
 public:
  // `limit`, in bytes: what may lie in memory of our own, and, where the backing has no size, what all templates may take for
  // another to be pushed.
  Exports(std::unique_ptr<Backing> backing, uint64_t limit) : backing_(std::move(backing)), budget_(limit) {}

  absl::StatusOr<host::rdma::Entries> List(const std::string& tenant, const std::string& after);
  // The region is for queue pairs of this domain.
  absl::StatusOr<host::rdma::Opened> Open(const std::string& tenant, const std::string& name, ibv_pd* domain);
  // Who still reads it finds his key void.
  absl::Status Remove(const std::string& tenant, const std::string& name);
  // Of the tenant; the limit is everybody's.
  absl::StatusOr<host::rdma::Used> Use(const std::string& tenant);

  absl::StatusOr<std::unique_ptr<Push>> BeginPush(const std::string& name, const host::rdma::Layout& layout, ibv_pd* domain);
  absl::Status CommitPush(const std::string& tenant, std::unique_ptr<Push> push);

  // Takes back what others have removed, or put in its place.
  void Sweep();

 private:
  struct Export {
    explicit Export(Facts its) : facts(std::move(its)) {}
    const Facts facts;
    std::mutex mutex;  // guards the rest; held while it is loaded
    bool revoked = false;
    Holding memory;
    std::map<ibv_pd*, host::rdma::MemoryRegion> regions;
  };

  absl::StatusOr<Facts> FactsOf(const std::string& name, const std::string& stamp);
  absl::StatusOr<Facts> FactsOf(const std::string& name);
  // kNotFound also where it is another tenant's.
  absl::StatusOr<Facts> FactsFor(const std::string& tenant, const std::string& name);
  absl::StatusOr<uint64_t> Limit();
  // Into memory, and to this domain; `found->mutex` is held.
  absl::Status Load(const std::string& name, Export* found, ibv_pd* domain);
  static void Revoke(const std::shared_ptr<Export>& ended);

  const std::unique_ptr<Backing> backing_;
  Budget budget_;
  std::mutex mutex_;  // guards the rest; never held over a template's content
  std::map<std::string, Facts> facts_;
  std::map<std::string, std::shared_ptr<Export>> exports_;
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_EXPORTS_H_
