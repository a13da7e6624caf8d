// SPDX-License-Identifier: Apache-2.0
//
// What moult-poold and its clients take from each other before and after they know who the other is: requests,
// replies, the connection request's private data; and a key file. The header is made right in some, as by somebody
// who wants to be heard. What gets through must be within the limits that memory is mapped by, and come out as it went in.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>

#include "absl/strings/string_view.h"
#include "pool/rdma/auth.h"
#include "pool/rdma/messages.h"

namespace {

namespace rdma = moult::host::rdma;

constexpr size_t kHeaderSize = 16;

void Must(bool good) {
  if (!good) std::abort();
}

void Bounded(const rdma::Layout& layout) {
  Must(layout.Check().ok());
  // Each file from a page's start, behind the one before; no sum has overflowed.
  Must(layout.image_at() >= layout.pages && layout.manifest_at() >= layout.image_at() + layout.image);
  Must(layout.digests_at() >= layout.manifest_at() + layout.manifest && layout.digests() == layout.pages / 4096 * 32);
  Must(layout.length() >= layout.digests_at() + layout.digests() && layout.length() % 4096 == 0);
}
void Bounded(const rdma::Region& region) {
  Bounded(region.layout);
  Must(region.address + region.layout.length() >= region.address);
}
void Bounded(uint64_t loan_bytes) { Must(loan_bytes != 0 && loan_bytes % 4096 == 0 && loan_bytes <= rdma::kMostLent); }
void Printable(const std::string& text, size_t most) {
  Must(text.size() <= most);
  for (const char c : text) Must(c >= ' ' && c <= '~');
}

void Check(const rdma::Request& request) {
  if (const auto* list = std::get_if<rdma::List>(&request)) Printable(list->after, rdma::kMaxName);
  if (const auto* open = std::get_if<rdma::Open>(&request)) Printable(open->name, rdma::kMaxName);
  if (const auto* remove = std::get_if<rdma::Remove>(&request)) Printable(remove->name, rdma::kMaxName);
  if (const auto* push = std::get_if<rdma::PushBegin>(&request)) {
    Printable(push->name, rdma::kMaxName);
    Bounded(push->layout);
  }
  if (const auto* borrow = std::get_if<rdma::Borrow>(&request)) Bounded(borrow->bytes);
}
void Check(const rdma::Reply& reply) {
  if (const auto* failure = std::get_if<rdma::Failure>(&reply)) {
    Printable(failure->text, rdma::kMaxFailureText);
    Must(failure->code != absl::StatusCode::kOk);
  }
  if (const auto* opened = std::get_if<rdma::Opened>(&reply)) Bounded(opened->region);
  if (const auto* to = std::get_if<rdma::PushTo>(&reply)) Bounded(to->region);
  if (const auto* lent = std::get_if<rdma::Lent>(&reply)) {
    Bounded(lent->bytes);
    Must(lent->address + lent->bytes >= lent->address);
  }
  const auto* entries = std::get_if<rdma::Entries>(&reply);
  if (entries == nullptr) return;
  Must(entries->entries.size() <= rdma::kMaxEntries);
  for (const rdma::Entry& entry : entries->entries) Printable(entry.name, rdma::kMaxName);
}

template <auto kParse>
void Message(std::string_view bytes) {
  const auto message = kParse(bytes);
  if (!message.ok()) return;
  Check(message->content);
  Must(rdma::Encode(*message) == bytes);
}

// The first two bytes are the message's type; the header says what the rest is.
template <auto kParse>
void Headed(std::string_view bytes) {
  if (bytes.size() < 2) return;
  const std::string_view fields = bytes.substr(2, rdma::kMaxMessage - kHeaderSize);
  const auto length = static_cast<uint32_t>(kHeaderSize + fields.size());
  std::string whole("MTPL\1\0", 6);
  whole += bytes.substr(0, 2);
  for (unsigned shift = 0; shift < 32; shift += 8) whole += static_cast<char>(length >> shift);
  Message<kParse>(whole.append(4, '\0').append(fields));
}

void Introduction(std::string_view bytes) {
  const auto introduction = rdma::ParseIntroduction(bytes);
  if (introduction.ok()) Must(rdma::Encode(*introduction) == bytes.substr(0, rdma::kIntroductionSize));
}

void Keys(std::string_view bytes) {
  const auto keys = rdma::ParseKeys(absl::string_view(bytes.data(), bytes.size()));
  if (!keys.ok()) return;
  for (const rdma::TenantKey& key : *keys) Must(rdma::FindKey(*keys, key.tenant).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  constexpr void (*kParsers[])(std::string_view) = {Message<rdma::ParseRequest>, Message<rdma::ParseReply>,
                                                    Headed<rdma::ParseRequest>,  Headed<rdma::ParseReply>,
                                                    Introduction,                Keys};
  kParsers[data[0] % std::size(kParsers)](bytes);
  return 0;
}
