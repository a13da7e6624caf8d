// SPDX-License-Identifier: Apache-2.0
#include "proc/status.h"

#include <iterator>

#include "proc/text.h"

namespace moult::proc {
namespace {

// Each takes the value of one line; false when it is malformed.
using Handler = bool (*)(Scanner& value, Status& status);

template <auto kField>
bool Dec(Scanner& value, Status& status) {
  return value.Dec(&(status.*kField)) && value.AtEnd();
}

template <auto kField>
bool Oct(Scanner& value, Status& status) {
  return value.Oct(&(status.*kField)) && value.AtEnd();
}

template <auto kField>
bool Hex(Scanner& value, Status& status) {
  return value.Hex(&(status.*kField)) && value.AtEnd();
}

template <auto kField>
bool KiB(Scanner& value, Status& status) {
  uint64_t kib;
  return value.Dec(&kib) && value.Literal(" kB") && value.AtEnd() &&
         !__builtin_mul_overflow(kib, uint64_t{1024}, &(status.*kField));
}

bool ZeroOrOne(Scanner& value, bool* result) {
  char c;
  if (!value.Char(&c) || (c != '0' && c != '1') || !value.AtEnd()) return false;
  *result = c == '1';
  return true;
}

template <auto kField>
bool Bool(Scanner& value, Status& status) {
  bool result;
  if (!ZeroOrOne(value, &result)) return false;
  status.*kField = result;
  return true;
}

template <auto kField>
bool Four(Scanner& value, Status& status) {
  for (uint32_t& id : status.*kField) {
    if (!value.Dec(&id)) return false;
  }
  return value.AtEnd();
}

template <auto kField>
bool List(Scanner& value, Status& status) {
  auto& list = status.*kField;
  list.clear();
  while (value.Blanks() && !value.AtEnd()) {
    if (!value.Dec(&list.emplace_back())) return false;
  }
  return true;
}

bool State(Scanner& value, Status& status) { return value.Char(&status.state); }

bool SigQ(Scanner& value, Status& status) {
  return value.Dec(&status.sig_queued) && value.Literal('/') && value.Dec(&status.sig_queue_limit) &&
         value.AtEnd();
}

// In the order of the file, which is what makes FindHandler fast.
constexpr struct {
  std::string_view key;
  Handler handler;
} kHandlers[] = {
    {"Umask", Oct<&Status::umask>},
    {"State", State},
    {"Tgid", Dec<&Status::tgid>},
    {"Pid", Dec<&Status::pid>},
    {"PPid", Dec<&Status::ppid>},
    {"TracerPid", Dec<&Status::tracer_pid>},
    {"Uid", Four<&Status::uid>},
    {"Gid", Four<&Status::gid>},
    {"Groups", List<&Status::groups>},
    {"NStgid", List<&Status::ns_tgid>},
    {"NSpid", List<&Status::ns_pid>},
    {"NSpgid", List<&Status::ns_pgid>},
    {"NSsid", List<&Status::ns_sid>},
    {"Kthread", Bool<&Status::kthread>},
    {"VmSize", KiB<&Status::vm_size>},
    {"VmLck", KiB<&Status::vm_locked>},
    {"VmPin", KiB<&Status::vm_pinned>},
    {"VmRSS", KiB<&Status::vm_rss>},
    {"RssAnon", KiB<&Status::rss_anon>},
    {"RssFile", KiB<&Status::rss_file>},
    {"RssShmem", KiB<&Status::rss_shmem>},
    {"VmPTE", KiB<&Status::vm_pte>},
    {"VmSwap", KiB<&Status::vm_swap>},
    {"HugetlbPages", KiB<&Status::hugetlb_pages>},
    {"CoreDumping", Bool<&Status::core_dumping>},
    {"THP_enabled", Bool<&Status::thp_enabled>},
    {"Threads", Dec<&Status::threads>},
    {"SigQ", SigQ},
    {"SigPnd", Hex<&Status::sig_pending>},
    {"ShdPnd", Hex<&Status::shared_pending>},
    {"SigBlk", Hex<&Status::blocked>},
    {"SigIgn", Hex<&Status::ignored>},
    {"SigCgt", Hex<&Status::caught>},
    {"CapInh", Hex<&Status::cap_inh>},
    {"CapPrm", Hex<&Status::cap_prm>},
    {"CapEff", Hex<&Status::cap_eff>},
    {"CapBnd", Hex<&Status::cap_bnd>},
    {"CapAmb", Hex<&Status::cap_amb>},
    {"NoNewPrivs", Bool<&Status::no_new_privs>},
    {"Seccomp", Dec<&Status::seccomp>},
    {"Seccomp_filters", Dec<&Status::seccomp_filters>},
};

// Looks on from where the last key was found, and once around.
Handler FindHandler(std::string_view key, size_t* hint) {
  for (size_t i = 0; i < std::size(kHandlers); ++i) {
    const size_t index = (*hint + i) % std::size(kHandlers);
    if (kHandlers[index].key == key) {
      *hint = index + 1;
      return kHandlers[index].handler;
    }
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<Status> ParseStatus(std::string_view text) {
  Status status;
  size_t hint = 0;
  bool has_name = false;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    // A comm may begin with blanks, so exactly one tab is cut off.
    if (constexpr std::string_view kName = "Name:\t"; line.starts_with(kName)) {
      status.name = UnescapeComm(line.substr(kName.size()));
      has_name = true;
      continue;
    }
    std::string_view key;
    std::string_view rest;
    if (!SplitKey(line, &key, &rest)) continue;
    const Handler handler = FindHandler(key, &hint);
    Scanner value(rest);
    if (handler != nullptr && !handler(value, status)) return Malformed("status", lines.number(), line);
  }
  if (!has_name) return Incomplete("status", "no Name line");
  if (status.state == 0) return Incomplete("status", "no State line");
  if (status.tgid == 0 || status.pid == 0) return Incomplete("status", "no Tgid or Pid line");
  // The masks and credentials that a restore depends on come last: with Seccomp there, all of them are.
  if (text.find("\nSeccomp:") == std::string_view::npos) return Incomplete("status", "no Seccomp line");
  return status;
}

}  // namespace moult::proc
