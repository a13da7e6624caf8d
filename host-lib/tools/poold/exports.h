// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_EXPORTS_H_
#define MOULT_POOLD_EXPORTS_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "holding.h"
#include "pool/file/store.h"
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

// The templates of a store, and which of them are in memory that tenants read. What is not a tenant's own is not there
// for him: every call answers then as for a name that nobody has, but a push, which finds the name taken.
//
// A template is copied into memory, and held against its digests, when it is first opened. The files are not mapped: one
// that is cut would end the process, and before Linux 6.2 pinning copies each page of a mapping that may not be written.
// Safe for several threads. Blocks on the disk.
class Exports {
 public:
  // `limit`, in bytes: what may lie in memory, and what the store's templates may take for another to be pushed.
  Exports(std::shared_ptr<host::Store> store, uint64_t limit) : store_(std::move(store)), budget_(limit) {}

  absl::StatusOr<host::rdma::Entries> List(const std::string& tenant, const std::string& after);
  // The region is for queue pairs of this domain.
  absl::StatusOr<host::rdma::Opened> Open(const std::string& tenant, const std::string& name, ibv_pd* domain);
  // Who still reads it finds his key void.
  absl::Status Remove(const std::string& tenant, const std::string& name);
  // Of the tenant; the limit is everybody's.
  absl::StatusOr<host::rdma::Used> Use(const std::string& tenant);

  absl::StatusOr<std::unique_ptr<Push>> BeginPush(const std::string& name, const host::rdma::Layout& layout, ibv_pd* domain);
  absl::Status CommitPush(const std::string& tenant, std::unique_ptr<Push> push);

  // Takes back what others have removed from the store, or put in its place.
  void Sweep();

 private:
  // Which manifest it is: device, inode, size, time of change.
  using Stamp = std::array<uint64_t, 5>;
  struct Facts {
    Stamp stamp{};
    std::string tenant;
    image::Sha256Digest digest{};
    host::rdma::Layout layout;
  };
  struct Export {
    explicit Export(Facts its) : facts(std::move(its)) {}
    const Facts facts;
    std::mutex mutex;  // guards the rest; held while it is read from the disk
    bool revoked = false;
    Holding memory;
    std::map<ibv_pd*, host::rdma::MemoryRegion> regions;
  };

  absl::StatusOr<Stamp> StampOf(const std::string& name) const;
  absl::StatusOr<Facts> FactsOf(const std::string& name);
  // kNotFound also where it is another tenant's.
  absl::StatusOr<Facts> FactsFor(const std::string& tenant, const std::string& name);
  absl::Status Load(const std::string& name, Export* to);
  static void Revoke(const std::shared_ptr<Export>& ended);

  const std::shared_ptr<host::Store> store_;
  Budget budget_;
  std::mutex mutex_;  // guards the rest; never held over a template's content
  std::map<std::string, Facts> facts_;
  std::map<std::string, std::shared_ptr<Export>> exports_;
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_EXPORTS_H_
