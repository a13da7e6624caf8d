// SPDX-License-Identifier: Apache-2.0
//
// What the agent reads besides messages: its configuration, the reports of its workers, the state of a
// function that an earlier agent left, its pages' stamps, and where the guest's RAM is. The first byte chooses.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>

#include "function/record.h"
#include "ledger/stamps.h"
#include "rpc/config.h"
#include "rpc/iomem.h"
#include "rpc/worker.h"

namespace {

namespace agent = moult::agent;

void Config(std::string_view text) {
  const auto config = agent::ParseConfig(text);
  if (config.ok() && !config->Allows("Hello")) std::abort();
}

void Report(std::string_view text) {
  const auto report = agent::DecodeReport(text);
  if (!report.ok()) return;
  const std::string sent = agent::EncodeReport(*report);
  const auto again = agent::DecodeReport(sent);
  if (!again.ok() || agent::EncodeReport(*again) != sent) std::abort();
}

void State(std::string_view text) {
  agent::Function function;
  (void)agent::ParseState(text, &function);
}

void Stamps(std::string_view text) {
  const auto stamps = agent::Stamps::Parse(text);
  if (!stamps.ok()) return;
  const std::string saved = stamps->Format();
  const auto again = agent::Stamps::Parse(saved);
  if (!again.ok() || again->Format() != saved) std::abort();
}

void Iomem(std::string_view text) {
  uint64_t last = 0;
  for (const agent::RamRange& range : agent::ParseSystemRam(text)) {
    if (range.end <= range.start || range.start < last) std::abort();
    last = range.start;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  constexpr void (*kParsers[])(std::string_view) = {Config, Report, State, Iomem, Stamps};
  kParsers[data[0] % std::size(kParsers)](text);
  return 0;
}
