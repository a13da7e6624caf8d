// SPDX-License-Identifier: Apache-2.0
//
// Frames: how messages follow each other on a byte stream between host library and agent. spec.md, "Frames".
#ifndef MOULT_PROTOCOL_FRAME_H_
#define MOULT_PROTOCOL_FRAME_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moult::rpc {

inline constexpr uint32_t kProtocolVersion = 1;
inline constexpr uint32_t kDefaultPort = 1075;       // vsock port of the agent
inline constexpr uint32_t kFrameMagic = 0x50544c4d;  // "MLTP", little-endian
inline constexpr size_t kFrameHeaderSize = 24;
// FunctionInfo.end_reason of a function whose detach left nothing of it.
inline constexpr char kEndReasonDetached[] = "detached";
inline constexpr uint64_t kMaxDataFrame = 1u << 20;  // payload of one data frame

enum class FrameKind : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };

// On the wire, little-endian: magic u32, kind u8, three zero bytes, id u64, length u64.
struct FrameHeader {
  FrameKind kind;
  uint64_t id;      // a response and the data of a call carry the id of its request
  uint64_t length;  // bytes of payload after the header
};

std::array<char, kFrameHeaderSize> EncodeHeader(const FrameHeader& header);

// kDataLoss when it is no header of this protocol, kResourceExhausted when the payload is longer than
// `max_message` (or kMaxDataFrame for data).
absl::StatusOr<FrameHeader> DecodeHeader(std::string_view bytes, uint64_t max_message);

struct Frame {
  FrameKind kind;
  uint64_t id;
  std::string payload;
};

// Takes a stream apart, piece by piece, as it comes. Holds at most one frame's payload, and grows it only
// with bytes that have come: a length alone costs no memory. After an error it gives that error again.
class FrameDecoder {
 public:
  explicit FrameDecoder(uint64_t max_message) : max_message_(max_message) {}
  // Uses up as much of `bytes` as belongs to the current frame; a whole frame, or nullopt: more is needed.
  absl::StatusOr<std::optional<Frame>> Feed(std::string_view& bytes);
  // Between two frames: an end of the stream here loses nothing.
  bool idle() const { return header_used_ == 0; }

 private:
  const uint64_t max_message_;
  std::array<char, kFrameHeaderSize> header_{};
  size_t header_used_ = 0;
  FrameHeader decoded_{};
  std::string payload_;
  absl::Status failed_;
};

}  // namespace moult::rpc

#endif  // MOULT_PROTOCOL_FRAME_H_
