// SPDX-License-Identifier: Apache-2.0
//
// The first byte chooses the parser, the rest is what it reads. No input may crash, leak or run for long.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string_view>
#include <vector>

#include "proc/auxv.h"
#include "proc/cpuinfo.h"
#include "proc/fdinfo.h"
#include "proc/limits.h"
#include "proc/locks.h"
#include "proc/maps.h"
#include "proc/mountinfo.h"
#include "proc/net_inet.h"
#include "proc/net_multicast.h"
#include "proc/net_unix.h"
#include "proc/numa_maps.h"
#include "proc/pagemap.h"
#include "proc/stat.h"
#include "proc/status.h"
#include "proc/timens.h"
#include "proc/timer_list.h"
#include "proc/timers.h"
#include "proc/values.h"
#include "resource/unix_socket/diag.h"

namespace {

using moult::proc::MapsEntry;

template <auto kParse>
void Run(std::string_view text) {
  (void)kParse(text).ok();
}

// Every mapping that gets through must be a range.
void RunMaps(std::string_view text) {
  const auto entries = moult::proc::ParseMaps(text);
  if (!entries.ok()) return;
  for (const MapsEntry& entry : *entries) {
    if (entry.start >= entry.end) abort();
  }
}

void RunNetInet(std::string_view text) {
  const auto sockets = moult::proc::ParseNetInet(text);
  if (!sockets.ok()) return;
  for (const auto& socket : *sockets) (void)socket.local.ToString();
}

// What was understood must survive being written and read again.
void RunTimens(std::string_view text) {
  const auto offsets = moult::proc::ParseTimensOffsets(text);
  if (!offsets.ok()) return;
  const auto again = moult::proc::ParseTimensOffsets(moult::proc::FormatTimensOffsets(*offsets));
  if (!again.ok() || !(*again == *offsets)) abort();
}

// A page is somewhere or nowhere, not in two places.
void RunPagemap(std::string_view bytes) {
  for (uint64_t raw; bytes.size() >= sizeof(raw); bytes.remove_prefix(sizeof(raw))) {
    std::memcpy(&raw, bytes.data(), sizeof(raw));
    const moult::proc::PagemapEntry entry = moult::proc::DecodePagemap(raw);
    if ((entry.pfn != 0 && entry.swap != 0) || (entry.pfn | entry.swap) >> 55 != 0) abort();
  }
}

void RunNumbers(std::string_view text) {
  (void)moult::proc::ParseHexFile("personality", text).status();
  (void)moult::proc::ParseDecimalFile("oom_score_adj", text).status();
}

// The answer of a netlink socket. What comes after it in memory is the sanitizer's.
void RunUnixDiag(std::string_view bytes) {
  const std::vector<char> answer(bytes.begin(), bytes.end());
  (void)moult::engine::ParseUnixDiag(answer).status();
}

constexpr void (*kParsers[])(std::string_view) = {
    RunMaps,
    Run<moult::proc::ParseSmaps>,
    Run<moult::proc::ParseStatus>,
    Run<moult::proc::ParseStat>,
    Run<moult::proc::ParseFdInfo>,
    Run<moult::proc::ParseMountInfo>,
    Run<moult::proc::ParseLimits>,
    Run<moult::proc::ParseTimers>,
    Run<moult::proc::ParseLocks>,
    Run<moult::proc::ParseNetUnix>,
    RunNetInet,
    Run<moult::proc::ParseAuxv>,
    RunTimens,
    Run<moult::proc::ParseCpuInfo>,
    Run<moult::proc::ParseTimerList>,
    RunPagemap,
    Run<moult::proc::ParseSchedstatRuns>,
    Run<moult::proc::ParseSyscall>,
    RunNumbers,
    Run<moult::proc::ParseIgmp>,
    Run<moult::proc::ParseIgmp6>,
    Run<moult::proc::ParseNumaPolicies>,
    RunUnixDiag,
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  kParsers[data[0] % std::size(kParsers)](text);
  return 0;
}
