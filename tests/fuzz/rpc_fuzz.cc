// SPDX-License-Identifier: Apache-2.0
//
// Every message that either side takes from the other: never a crash, a hang or a wild allocation; and what
// is accepted can be sent on. The first byte chooses: bytes as they are, or a good message some of whose
// bytes are changed. Runs of pages come past the FlatBuffers verifier: as frames of numbers, for the ledger.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "ledger/page_ledger.h"
#include "messages.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/function_spec.h"
#include "moult/protocol/message.h"
#include "moult/protocol/page_runs.h"

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

// RAM with a hole, of which nothing is touched.
const moult::host::GuestMemory& Memory() {
  static const auto* memory = [] {
    constexpr uint64_t kHalf = 128 * moult::kPage;
    void* at = mmap(nullptr, 2 * kHalf, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    moult::host::RegionConfig regions[2];
    for (uint64_t i = 0; i < 2; ++i) {
      regions[i].range = {moult::host::GuestPhys((1ull << 32) + i * kHalf), kHalf};
      regions[i].hva = static_cast<std::byte*>(at) + i * kHalf;
    }
    auto made = moult::host::GuestMemory::Create(regions);
    if (!made.ok()) std::abort();
    return new moult::host::GuestMemory(*std::move(made));
  }();
  return *memory;
}

// All that is asked of a ledger. What it takes for RAM is the VM's, rising, and adds up.
void UseLedger(const moult::host::PageLedger& ledger) {
  rpc::ListReplyT list;
  (void)ledger.Summary(list);
  (void)ledger.RunsJson();
  uint64_t least = 0;
  for (const rpc::PageRun& run : ledger.runs()) {
    const auto page = moult::host::GuestPhys(run.gpa() + run.length() - moult::kPage);
    (void)RunJson(ledger, run, page, "f");
    if (ledger.Find(page) == nullptr) std::abort();
    if (run.page_class() == rpc::PageClass::Template) continue;
    if (run.gpa() < least || !Memory().Translate({moult::host::GuestPhys(run.gpa()), run.length()}).ok())
      std::abort();
    least = run.gpa() + run.length();
  }
  moult::host::Compare(ledger, ledger, [](const moult::host::PageChange&) { std::abort(); });
}

// `bytes`: how many change the report (one byte), these, then the runs; or what changes good ones.
void Pages(std::string_view bytes, bool good) {
  static const std::vector<std::string> reports{rpc::Serialize(rpc::MakeResponse(fuzz::PagesReport()))};
  static const std::vector<std::string> frames{fuzz::PageRuns()};
  const size_t changes = bytes.empty() ? 0 : static_cast<uint8_t>(bytes[0]);
  if (!bytes.empty()) bytes.remove_prefix(1);
  const auto response = rpc::ParseResponse(fuzz::Changed(reports, bytes.substr(0, changes)));
  if (!response.ok() || (*response)->body.AsPagesReport() == nullptr) return;
  bytes.remove_prefix(std::min(changes, bytes.size()));
  const std::string frame = good ? fuzz::Changed(frames, bytes) : std::string(bytes);
  std::vector<rpc::PageRun> runs(frame.size() / sizeof(rpc::PageRun));
  // As many as have come: the session sees to that.
  if (!runs.empty()) std::memcpy(runs.data(), frame.data(), runs.size() * sizeof(rpc::PageRun));
  rpc::PagesReportT report = std::move(*(*response)->body.AsPagesReport());
  report.run_count = runs.size();
  const bool sound = rpc::CheckPageRuns(report, runs).ok();
  const auto ledger = moult::host::PageLedger::Make(std::move(report), std::move(runs), Memory());
  if (ledger.ok() && !sound) std::abort();
  if (ledger.ok()) UseLedger(*ledger);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  static const std::vector<std::string> specs{rpc::SerializeFunctionSpec(fuzz::Spec())};
  switch (data[0] % 10) {
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
    case 7:
      Spec(fuzz::Changed(specs, bytes));
      break;
    default:
      Pages(bytes, data[0] % 10 == 9);
      break;
  }
  return 0;
}
