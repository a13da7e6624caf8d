// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/frame.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace moult::rpc {
namespace {

constexpr size_t kKindAt = 4;
constexpr size_t kIdAt = 8;
constexpr size_t kLengthAt = 16;

template <typename T>
T Load(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

}  // namespace

std::array<char, kFrameHeaderSize> EncodeHeader(const FrameHeader& header) {
  std::array<char, kFrameHeaderSize> bytes{};
  std::memcpy(bytes.data(), &kFrameMagic, sizeof(kFrameMagic));
  bytes[kKindAt] = static_cast<char>(header.kind);
  std::memcpy(bytes.data() + kIdAt, &header.id, sizeof(header.id));
  std::memcpy(bytes.data() + kLengthAt, &header.length, sizeof(header.length));
  return bytes;
}

absl::StatusOr<FrameHeader> DecodeHeader(std::string_view bytes, uint64_t max_message) {
  if (bytes.size() != kFrameHeaderSize)
    return absl::DataLossError(absl::StrFormat("frame: header of %d bytes", bytes.size()));
  if (const auto magic = Load<uint32_t>(bytes, 0); magic != kFrameMagic) {
    return absl::DataLossError(absl::StrFormat(
        "frame: magic is %#x, not %#x: the peer does not speak this protocol", magic, kFrameMagic));
  }
  const auto kind = Load<uint8_t>(bytes, kKindAt);
  if (kind < static_cast<uint8_t>(FrameKind::kRequest) || kind > static_cast<uint8_t>(FrameKind::kData)) {
    return absl::DataLossError(absl::StrFormat("frame: unknown kind %d", kind));
  }
  if (bytes[5] != 0 || bytes[6] != 0 || bytes[7] != 0)
    return absl::DataLossError("frame: reserved bytes are not zero");
  const FrameHeader header{static_cast<FrameKind>(kind), Load<uint64_t>(bytes, kIdAt),
                           Load<uint64_t>(bytes, kLengthAt)};
  const uint64_t most = header.kind == FrameKind::kData ? kMaxDataFrame : max_message;
  if (header.length > most) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("frame: payload of %d bytes, at most %d are taken", header.length, most));
  }
  return header;
}

absl::StatusOr<std::optional<Frame>> FrameDecoder::Feed(std::string_view& bytes) {
  if (!failed_.ok()) return failed_;
  if (header_used_ < kFrameHeaderSize) {
    const size_t take = std::min(bytes.size(), kFrameHeaderSize - header_used_);
    std::copy_n(bytes.data(), take, header_.data() + header_used_);
    header_used_ += take;
    bytes.remove_prefix(take);
    if (header_used_ < kFrameHeaderSize) return std::nullopt;
    auto header = DecodeHeader({header_.data(), header_.size()}, max_message_);
    if (!header.ok()) return failed_ = header.status();
    decoded_ = *header;
  }
  const size_t take = std::min<uint64_t>(bytes.size(), decoded_.length - payload_.size());
  payload_.append(bytes.substr(0, take));
  bytes.remove_prefix(take);
  if (payload_.size() < decoded_.length) return std::nullopt;
  header_used_ = 0;
  return Frame{decoded_.kind, decoded_.id, std::exchange(payload_, {})};
}

}  // namespace moult::rpc
