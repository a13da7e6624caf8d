// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/messages.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "pool/rdma/wire.h"

namespace moult::host::rdma {
namespace {

constexpr uint32_t kMagic = 0x4c50544d;  // "MTPL"
constexpr uint16_t kReplies = 0x100;     // types of replies count from here
constexpr size_t kHeaderSize = 16;

uint64_t UpToPage(uint64_t size) { return (size + image::kPageSize - 1) / image::kPageSize * image::kPageSize; }

// The fields of each message, for both directions: `io` is a Writer with constant messages, or a Reader.
template <typename T, typename Kind>
concept Is = std::is_same_v<std::remove_const_t<T>, Kind>;

template <typename T>
concept Empty = Is<T, Use> || Is<T, PushCommit> || Is<T, Done>;
template <typename T>
concept Named = Is<T, Open> || Is<T, Remove>;
template <typename T>
concept OfLoan = Is<T, Renew> || Is<T, GiveBack>;

template <typename Io>
void Fields(Io&, Empty auto&) {}
template <typename Io, typename T>
requires Is<T, Hello> || Is<T, Challenge>
void Fields(Io& io, T& m) { io(m.nonce); }
template <typename Io, typename T>
requires Is<T, Proof> || Is<T, Welcome>
void Fields(Io& io, T& m) { io(m.mac); }
template <typename Io>
void Fields(Io& io, Named auto& m) { io.Text(m.name, kMaxName); }
template <typename Io, typename T>
requires Is<T, List>
void Fields(Io& io, T& m) { io.Text(m.after, kMaxName); }

template <typename Io, typename T>
requires Is<T, Layout>
void Fields(Io& io, T& m) {
  io(m.pages);
  io(m.image);
  io(m.manifest);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (!m.Check().ok()) io.Fail("sizes are beyond what a template can have");
  }
}
template <typename Io, typename T>
requires Is<T, Region>
void Fields(Io& io, T& m) {
  io(m.address);
  io(m.key);
  Fields(io, m.layout);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (m.address + m.layout.length() < m.address) io.Fail("a region does not fit into the address space");
  }
}
template <typename Io, typename T>
requires Is<T, PushBegin>
void Fields(Io& io, T& m) {
  io.Text(m.name, kMaxName);
  Fields(io, m.layout);
}
template <typename Io, typename T>
requires Is<T, Entries>
void Fields(Io& io, T& m) {
  io.Each(m.entries, kMaxEntries, [](auto& inner, auto& entry) {
    inner.Text(entry.name, kMaxName);
    inner(entry.digest);
    inner(entry.bytes);
  });
  io.Flag(m.more);
  if constexpr (std::is_same_v<Io, Reader>) {
    const auto rising = [](const Entry& a, const Entry& b) { return a.name >= b.name; };
    if (std::adjacent_find(m.entries.begin(), m.entries.end(), rising) != m.entries.end()) io.Fail("names do not rise");
    if (m.more && m.entries.empty()) io.Fail("more is to come after nothing");
  }
}
template <typename Io, typename T>
requires Is<T, Opened>
void Fields(Io& io, T& m) {
  io(m.digest);
  Fields(io, m.region);
}
template <typename Io, typename T>
requires Is<T, Used>
void Fields(Io& io, T& m) {
  io(m.used_bytes);
  io(m.limit_bytes);
  io(m.templates);
  io(m.lent_bytes);
  io(m.lend_limit_bytes);
}
template <typename Io, typename T>
requires Is<T, PushTo>
void Fields(Io& io, T& m) { Fields(io, m.region); }
template <typename Io>
void Fields(Io& io, OfLoan auto& m) { io(m.token); }
template <typename Io>
void LoanSize(Io& io, auto& bytes) {
  io(bytes);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (bytes == 0 || bytes > kMostLent || bytes % image::kPageSize != 0) io.Fail("a loan is not of whole pages, or too large");
  }
}
template <typename Io, typename T>
requires Is<T, Borrow>
void Fields(Io& io, T& m) { LoanSize(io, m.bytes); }
template <typename Io, typename T>
requires Is<T, Lent>
void Fields(Io& io, T& m) {
  io(m.token);
  io(m.address);
  io(m.key);
  LoanSize(io, m.bytes);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (m.address + m.bytes < m.address) io.Fail("a loan does not fit into the address space");
  }
}
template <typename Io, typename T>
requires Is<T, Failure>
void Fields(Io& io, T& m) {
  io.Code(m.code);
  io.Text(m.text, kMaxFailureText);
}

template <typename Content>
std::string EncodeMessage(const Message<Content>& message, uint16_t first) {
  Writer fields;
  std::visit([&](const auto& content) { Fields(fields, content); }, message.content);
  Writer header;
  header(kMagic);
  header(kVersion);
  header(static_cast<uint16_t>(first + message.content.index()));
  header(static_cast<uint32_t>(kHeaderSize + fields.size()));
  header(message.number);
  return header.Take() + fields.Take();
}

template <typename Content, size_t kIndex = 0>
absl::Status ReadContent(size_t index, Reader* reader, Content* content) {
  if constexpr (kIndex == std::variant_size_v<Content>) {
    return absl::InvalidArgumentError("message: its type is unknown, or not what this side takes");
  } else {
    if (index != kIndex) return ReadContent<Content, kIndex + 1>(index, reader, content);
    std::variant_alternative_t<kIndex, Content> fields{};
    Fields(*reader, fields);
    *content = std::move(fields);
    return reader->End();
  }
}

template <typename Content>
absl::StatusOr<Message<Content>> ParseMessage(std::string_view bytes, uint16_t first) {
  if (bytes.size() < kHeaderSize || bytes.size() > kMaxMessage) {
    return absl::InvalidArgumentError(absl::StrCat("message: ", bytes.size(), " bytes are none"));
  }
  Reader header(bytes.substr(0, kHeaderSize));
  uint32_t magic = 0, length = 0;
  uint16_t version = 0, type = 0;
  Message<Content> message;
  header(magic);
  header(version);
  header(type);
  header(length);
  header(message.number);
  if (magic != kMagic) return absl::InvalidArgumentError("message: does not begin as one");
  if (version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("message: the other side speaks version ", version, ", this one ",
                                                      kVersion, "; use the same release on both"));
  }
  if (length != bytes.size()) return absl::InvalidArgumentError("message: its length is not what it says");
  Reader fields(bytes.substr(kHeaderSize));
  const size_t index = type < first ? std::variant_size_v<Content> : static_cast<size_t>(type - first);
  MOULT_RETURN_IF_ERROR(ReadContent(index, &fields, &message.content));
  return message;
}

}  // namespace

uint64_t Layout::manifest_at() const { return pages + UpToPage(image); }
uint64_t Layout::digests_at() const { return manifest_at() + UpToPage(manifest); }
uint64_t Layout::length() const { return digests_at() + UpToPage(digests()); }

absl::Status Layout::Check() const {
  if (pages > image::kMaxPagesSize || pages % image::kPageSize != 0 || image == 0 || image > image::kMaxImageSize ||
      manifest == 0 || manifest > image::kMaxManifestPayload + image::kManifestHeaderSize) {
    return absl::InvalidArgumentError(absl::StrCat("no template has ", pages, " bytes of pages, an image of ", image,
                                                   " and a manifest of ", manifest));
  }
  return absl::OkStatus();
}

Failure FailureOf(const absl::Status& status) {
  std::string text(status.message().substr(0, kMaxFailureText));
  std::replace_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return {status.code(), std::move(text)};
}

std::string Encode(const Message<Request>& request) { return EncodeMessage(request, 0); }
std::string Encode(const Message<Reply>& reply) { return EncodeMessage(reply, kReplies); }

absl::StatusOr<Message<Request>> ParseRequest(std::string_view bytes) { return ParseMessage<Request>(bytes, 0); }
absl::StatusOr<Message<Reply>> ParseReply(std::string_view bytes) { return ParseMessage<Reply>(bytes, kReplies); }

std::string Encode(const Introduction& introduction) {
  Writer writer;
  writer(kMagic);
  writer(kVersion);
  writer(uint16_t{0});
  writer(introduction.tenant);
  return writer.Take();
}

absl::StatusOr<Introduction> ParseIntroduction(std::string_view bytes) {
  const std::string_view padding = bytes.substr(std::min(bytes.size(), kIntroductionSize));
  Reader reader(bytes.substr(0, kIntroductionSize));
  uint32_t magic = 0;
  uint16_t version = 0, reserved = 0;
  Introduction introduction{};
  reader(magic);
  reader(version);
  reader(reserved);
  reader(introduction.tenant);
  MOULT_RETURN_IF_ERROR(reader.End());
  const bool zeros = std::all_of(padding.begin(), padding.end(), [](char c) { return c == 0; });
  if (magic != kMagic || version != kVersion || reserved != 0 || !zeros) {
    return absl::InvalidArgumentError("connection request: is none of a client of this version");
  }
  return introduction;
}

}  // namespace moult::host::rdma
