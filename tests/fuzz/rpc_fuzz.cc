// SPDX-License-Identifier: Apache-2.0
//
// Every message that either side takes from the other: never a crash, a hang or a wild allocation; and what
// is accepted can be sent on. The first byte chooses: bytes as they are, or a good message some of whose
// bytes are changed.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "messages.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/function_spec.h"
#include "moult/protocol/message.h"

namespace {

namespace rpc = moult::rpc;
namespace fuzz = moult::fuzz;

void Request(std::string_view bytes) {
  const auto request = rpc::ParseRequest(bytes);
  if (!request.ok()) return;
  if (!rpc::ParseRequest(rpc::Serialize(**request)).ok()) std::abort();
}

void Response(std::string_view bytes) {
  const auto response = rpc::ParseResponse(bytes);
  if (!response.ok()) return;
  if (!rpc::ParseResponse(rpc::Serialize(**response)).ok()) std::abort();
}

void Spec(std::string_view bytes) {
  const auto spec = rpc::ParseFunctionSpec(bytes);
  if (!spec.ok()) return;
  if (!rpc::ParseFunctionSpec(rpc::SerializeFunctionSpec(**spec)).ok()) std::abort();
}

// What a stream says in pieces of `piece` bytes: the frames, and how it ended.
std::string Frames(std::string_view stream, size_t piece) {
  rpc::FrameDecoder decoder(1u << 16);
  std::string told;
  while (!stream.empty()) {
    std::string_view part = stream.substr(0, piece);
    stream.remove_prefix(part.size());
    while (!part.empty()) {
      const auto frame = decoder.Feed(part);
      if (!frame.ok()) return told.append(frame.status().ToString());
      if (!frame->has_value()) continue;
      told.append(std::to_string(static_cast<int>((*frame)->kind)) + " " + std::to_string((*frame)->id) +
                  " " + (*frame)->payload + "\n");
    }
  }
  return told.append(decoder.idle() ? "between two" : "within one");
}

// How a stream is cut must not matter. "F" stands for a good header of eight bytes, which a fuzzer would not
// find.
void Stream(std::string_view bytes) {
  std::string stream;
  for (const char c : bytes) {
    if (c != 'F') {
      stream.push_back(c);
      continue;
    }
    const auto header = rpc::EncodeHeader({rpc::FrameKind::kResponse, 3, 8});
    stream.append(header.data(), header.size());
  }
  const std::string whole = Frames(stream, stream.size() + 1);
  if (Frames(stream, 1) != whole || Frames(stream, 7) != whole) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  static const std::vector<std::string> specs{rpc::SerializeFunctionSpec(fuzz::Spec())};
  switch (data[0] % 8) {
    case 0:
      Request(bytes);
      break;
    case 1:
      Response(bytes);
      break;
    case 2:
      Request(fuzz::Changed(fuzz::Requests(), bytes));
      break;
    case 3:
      Response(fuzz::Changed(fuzz::Responses(), bytes));
      break;
    case 4:
      (void)rpc::DecodeHeader(bytes, rpc::kMaxRequest).status();
      break;
    case 5:
      Stream(bytes);
      break;
    case 6:
      Spec(bytes);
      break;
    default:
      Spec(fuzz::Changed(specs, bytes));
      break;
  }
  return 0;
}
