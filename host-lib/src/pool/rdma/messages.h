// SPDX-License-Identifier: Apache-2.0
//
// What client and memory node say to each other over RDMA SEND. Pages are never among it: they are read, and pushed, by
// one-sided operations in a Region. Pure: bytes in, checked values out; neither side trusts the other.
//
//   connect (private data of the CM request): Introduction
//   Hello -> Challenge, Proof -> Welcome       who does not get so far has no right in any memory
//   List, Open, Use, Remove, PushBegin, PushCommit -> their answer, or Failure
//   Borrow, Renew, GiveBack -> Lent, or Failure   memory for pages of guest RAM that are out
//
// A message: magic, version, type, total length, number of the request; then the fields, little-endian, without gaps;
// a string has its length before it. One request is under way on a connection.
#ifndef MOULT_HOST_POOL_RDMA_MESSAGES_H_
#define MOULT_HOST_POOL_RDMA_MESSAGES_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"

namespace moult::host::rdma {

inline constexpr uint16_t kVersion = 2;  // 1: memory nodes had no digests of pages
inline constexpr size_t kMaxMessage = 4096;
inline constexpr size_t kMaxName = 64;
inline constexpr size_t kMaxFailureText = 1024;

using TenantId = std::array<uint8_t, 16>;
using Nonce = std::array<uint8_t, 32>;
using Mac = std::array<uint8_t, 32>;
// Names a loan. Random: who was not told it cannot renew or end it.
using Token = std::array<uint8_t, 16>;
inline constexpr uint64_t kMostLent = uint64_t{1} << 44;  // bytes of a loan

// How a template lies in the memory of a memory node: its files `pages`, `image` and `manifest`, then the digests of its
// pages, each from a page's start.
struct Layout {
  uint64_t pages = 0;
  uint64_t image = 0;
  uint64_t manifest = 0;
  uint64_t image_at() const { return pages; }
  uint64_t manifest_at() const;
  // 32 bytes a page (image::PageDigest), which the memory node fills in; of no meaning where the template's leaves are
  // not made of them (format version 1).
  uint64_t digests() const { return pages / image::kPageSize * sizeof(image::Sha256Digest); }
  uint64_t digests_at() const;
  uint64_t length() const;
  // Within the format's limits: so no sum overflows. kInvalidArgument.
  absl::Status Check() const;
  bool operator==(const Layout&) const = default;
};

// Memory of a memory node that this connection may reach.
struct Region {
  uint64_t address = 0;
  uint32_t key = 0;
  Layout layout;
};

struct Hello {
  Nonce nonce;
};
struct Proof {
  Mac mac;
};
struct List {
  std::string after;  // names behind this one; empty: from the first
};
struct Open {
  std::string name;
};
struct Use {};
struct Remove {
  std::string name;
};
struct PushBegin {
  std::string name;
  Layout layout;
};
struct PushCommit {};
struct Borrow {
  uint64_t bytes = 0;  // whole pages
};
// On a new connection, which keeps the loan from now on as the one did that it was made on.
struct Renew {
  Token token;
};
struct GiveBack {
  Token token;
};
using Request = std::variant<Hello, Proof, List, Open, Use, Remove, PushBegin, PushCommit, Borrow, Renew, GiveBack>;

struct Challenge {
  Nonce nonce;
};
struct Welcome {
  Mac mac;
};
struct Entry {
  std::string name;
  image::Sha256Digest digest;
  uint64_t bytes = 0;
};
struct Entries {
  std::vector<Entry> entries;  // rising by name
  bool more = false;
};
struct Opened {
  image::Sha256Digest digest;  // of the manifest
  Region region;
};
struct Used {
  uint64_t used_bytes = 0;
  uint64_t limit_bytes = 0;
  uint64_t templates = 0;
  // For offloaded pages: by this tenant's VMs, and, of all tenants, at most; 0: it lends none.
  uint64_t lent_bytes = 0;
  uint64_t lend_limit_bytes = 0;
};
struct PushTo {
  Region region;
};
struct Done {};
// Memory of zeros at first, which connections of this tenant may read and write.
struct Lent {
  Token token;
  uint64_t address = 0;
  uint32_t key = 0;
  uint64_t bytes = 0;
};
struct Failure {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string text;
};
// Fit to be sent: what is not printable in the text is replaced, what is too long left off. Not of an OK status.
Failure FailureOf(const absl::Status& status);
using Reply = std::variant<Challenge, Welcome, Entries, Opened, Used, PushTo, Done, Failure, Lent>;

// How many entries fit into a message, whatever their names are.
inline constexpr size_t kMaxEntries = 32;

template <typename Content>
struct Message {
  uint32_t number = 0;
  Content content;
};

// At most kMaxMessage bytes, given names and texts within their limits.
std::string Encode(const Message<Request>& request);
std::string Encode(const Message<Reply>& reply);
// kInvalidArgument; kFailedPrecondition: another version.
absl::StatusOr<Message<Request>> ParseRequest(std::string_view bytes);
absl::StatusOr<Message<Reply>> ParseReply(std::string_view bytes);

struct Introduction {
  TenantId tenant;
};
inline constexpr size_t kIntroductionSize = 24;
std::string Encode(const Introduction& introduction);
// The CM pads private data with zeros to its own size.
absl::StatusOr<Introduction> ParseIntroduction(std::string_view bytes);

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_MESSAGES_H_
