// SPDX-License-Identifier: Apache-2.0
#include "settings.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moult/base/status.h"

namespace moult::qemu {
namespace {

absl::Status Wrong(const std::string& key, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("MOULT_QEMU: ", key, " ", what));
}

absl::Status Switch(const std::string& key, const std::string& value, bool* to) {
  if (value != "on" && value != "off") return Wrong(key, "must be on or off");
  *to = value == "on";
  return absl::OkStatus();
}

absl::Status Mib(const std::string& key, const std::string& value, uint64_t* to) {
  return absl::SimpleAtoi(value, to) && *to < (1ull << 40) ? absl::OkStatus() : Wrong(key, "must be a number of MiB");
}

absl::Status Apply(const std::string& key, const std::string& value, Settings* s) {
  const struct {
    const char* key;
    std::string* to;
  } texts[] = {{"control", &s->control}, {"vsock", &s->vsock}, {"store", &s->store},
               {"tenant", &s->tenant},   {"name", &s->name},   {"log", &s->log},
               {"pool", &s->pool},       {"cache", &s->cache}, {"pool_key", &s->pool_key}};
  for (const auto& text : texts) {
    if (key != text.key) continue;
    *text.to = value;
    return absl::OkStatus();
  }
  if (key == "ram" || key == "window") {
    (key == "ram" ? s->ram : s->windows) = absl::StrSplit(value, '+', absl::SkipEmpty());
    return absl::OkStatus();
  }
  if (key == "port")
    return absl::SimpleAtoi(value, &s->port) && s->port != 0 ? absl::OkStatus()
                                                             : Wrong(key, "must be a port number");
  if (key == "pool_mib") return Mib(key, value, &s->pool_mib);
  if (key == "cache_mib") return Mib(key, value, &s->cache_mib);
  if (key == "prefetch_mib")
    return absl::SimpleAtoi(value, &s->prefetch_mib) ? absl::OkStatus() : Wrong(key, "must be a number of MiB a second");
  if (key == "fault_ms")
    return absl::SimpleAtoi(value, &s->fault_ms) && s->fault_ms >= 1 && s->fault_ms <= 600'000
               ? absl::OkStatus()
               : Wrong(key, "must be 1 to 600000 milliseconds");
  if (key == "pager_threads")
    return absl::SimpleAtoi(value, &s->pager_threads) && s->pager_threads >= 1 && s->pager_threads <= 64
               ? absl::OkStatus()
               : Wrong(key, "must be 1 to 64");
  if (key == "cross_tenant") return Switch(key, value, &s->cross_tenant);
  if (key == "debug") return Switch(key, value, &s->debug);
  return Wrong(key,
               "is no key; there are: control, ram, window, vsock, port, store, pool, pool_mib, "
               "pager_threads, cache, cache_mib, prefetch_mib, fault_ms, pool_key, tenant, cross_tenant, name, log, debug");
}

// Cuts at single commas; of two there stays one.
std::vector<std::string> SplitOptions(std::string_view text) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      parts.back() += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      parts.back() += text[i++];
    } else {
      parts.emplace_back();
    }
  }
  return parts;
}

}  // namespace

absl::Status ParseSettings(std::string_view text, Settings* settings) {
  absl::Status first;
  for (const std::string& part : SplitOptions(text)) {
    const size_t equals = part.find('=');
    absl::Status applied = equals == std::string::npos
                               ? Wrong(part, "has no value")
                               : Apply(part.substr(0, equals), part.substr(equals + 1), settings);
    first.Update(applied);
  }
  if (settings->ram.empty()) settings->ram = {"ram"};
  MOULT_RETURN_IF_ERROR(first);
  if (settings->control.empty()) return Wrong("control", "is missing: the path of the control socket");
  if (settings->vsock.empty())
    return Wrong("vsock", "is missing: the way to the agent (CID, uds:PATH or unix:PATH)");
  return absl::OkStatus();
}

}  // namespace moult::qemu
