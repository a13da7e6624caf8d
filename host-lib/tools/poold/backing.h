// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_BACKING_H_
#define MOULT_POOLD_BACKING_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "holding.h"
#include "moult/protocol/digest.h"
#include "pool/file/store.h"
#include "pool/rdma/messages.h"

namespace moult::poold {

struct Facts {
  std::string stamp;  // another one of that name has another
  std::string tenant;
  image::Sha256Digest digest{};  // of the manifest
  host::rdma::Layout layout;
};

// Where the templates of a memory node lie. Safe for several threads. Blocks on the medium.
class Backing {
 public:
  struct Entry {
    std::string name;
    std::string stamp;
  };
  enum class Place {
    kWhereItLies,  // if the backing can
    kCopy,
  };

  virtual ~Backing() = default;
  // Sorted by name. What is there; whether it is any good, Read says.
  virtual absl::StatusOr<std::vector<Entry>> List() = 0;
  // kNotFound.
  virtual absl::StatusOr<std::string> StampOf(const std::string& name) = 0;
  virtual absl::StatusOr<Facts> Read(const std::string& name) = 0;
  // Its files, held against their digests, and the digests of its pages. kUnavailable: it is no longer what `facts` say.
  virtual absl::StatusOr<Holding> Load(const std::string& name, const Facts& facts, Place place, Budget* budget) = 0;
  // kNotFound.
  virtual absl::Status Remove(const std::string& name) = 0;
  // All or nothing. kAlreadyExists; kDataLoss: it is not whole; kResourceExhausted.
  virtual absl::Status Add(const std::string& name, std::string_view manifest, std::string_view image,
                           absl::Span<const std::byte> pages) = 0;
  // Bytes that templates may take, where the medium has a size of its own.
  virtual absl::StatusOr<std::optional<uint64_t>> Capacity() = 0;
};

// What is said of a template that is not there, or is another by now.
absl::Status NoTemplate(const std::string& name);
absl::Status BeingReplaced(const std::string& name);

// Computes the digests of its pages, and holds the pages against the leaves with them. kDataLoss names the chunk.
absl::Status DigestPages(const std::string& name, const image::PageLeaves& leaves, const Holding& memory);

// A folder, as of a `file:` pool.
std::unique_ptr<Backing> BackByFolder(std::shared_ptr<host::Store> store);
// A formatted device or file, as of a `dax:` pool. A device's pages are read where they lie.
absl::StatusOr<std::unique_ptr<Backing>> BackByDax(const std::string& path);

}  // namespace moult::poold

#endif  // MOULT_POOLD_BACKING_H_
