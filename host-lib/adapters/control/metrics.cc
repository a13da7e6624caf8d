// SPDX-License-Identifier: Apache-2.0
#include "metrics.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace moult::control {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;

std::string Text(const Labels& labels) {
  if (labels.empty()) return "";
  return absl::StrCat("{",
                      absl::StrJoin(labels, ",",
                                    [](std::string* out, const auto& label) {
                                      const std::string value = absl::StrReplaceAll(
                                          label.second, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}});
                                      absl::StrAppend(out, label.first, "=\"", value, "\"");
                                    }),
                      "}");
}

class Writer {
 public:
  // The samples of a family follow it. A counter's samples end in _total.
  void Family(const char* name, const char* type, const char* help) {
    name_ = name;
    counter_ = std::string_view(type) == "counter";
    absl::StrAppend(&text_, "# TYPE ", name, " ", type, "\n");
    if (std::string_view(name).ends_with("_bytes")) absl::StrAppend(&text_, "# UNIT ", name, " bytes\n");
    if (std::string_view(name).ends_with("_seconds")) absl::StrAppend(&text_, "# UNIT ", name, " seconds\n");
    absl::StrAppend(&text_, "# HELP ", name, " ", help, "\n");
  }
  void Sample(const Labels& labels, uint64_t value) { Sample(counter_ ? "_total" : "", labels, value); }
  void Sample(const char* suffix, const Labels& labels, uint64_t value) {
    absl::StrAppend(&text_, name_, suffix, Text(labels), " ", value, "\n");
  }
  // A family of one sample, if there is such a number.
  void Single(const Json& from, const char* key, const char* name, const char* type, const char* help) {
    const auto found = from.find(key);
    if (found == from.end() || !found->is_number_unsigned()) return;
    Family(name, type, help);
    Sample({}, found->get<uint64_t>());
  }
  std::string Take() && { return absl::StrCat(text_, "# EOF\n"); }

 private:
  std::string text_;
  std::string name_;
  bool counter_ = false;
};

std::string Label(const Json& from, const char* key) {
  const auto found = from.find(key);
  return found != from.end() && found->is_string() ? found->get<std::string>() : "";
}

void WriteWindows(const Json& windows, Writer* out) {
  out->Family("moult_window_bytes", "gauge", "Size of the window.");
  for (const Json& window : windows) {
    out->Sample({{"window", window["number"].dump()}}, window["length"].get<uint64_t>());
  }
  out->Family("moult_window_shown_bytes", "gauge", "Address space of the window that shows a template.");
  for (const Json& window : windows) {
    for (const Json& slot : window["slots"]) {
      // One template may be in several slots of a window.
      out->Sample({{"window", window["number"].dump()},
                   {"offset", slot["offset"].dump()},
                   {"template", Label(slot, "template")}},
                  slot["length"].get<uint64_t>());
    }
  }
  out->Family("moult_template_functions", "gauge", "Functions that use the template there.");
  for (const Json& window : windows) {
    for (const Json& slot : window["slots"]) {
      out->Sample({{"window", window["number"].dump()},
                   {"offset", slot["offset"].dump()},
                   {"template", Label(slot, "template")}},
                  slot["users"].size());
    }
  }
}

// Entry i of the array counts what took less than 2^i us, and no less than 2^(i-1); the last all that took
// longer.
void WriteFaultTimes(const char* name, const char* help, const Json& log2, Writer* out) {
  out->Family(name, "histogram", help);
  uint64_t sum = 0;
  for (size_t i = 0; i < log2.size(); ++i) {
    sum += log2[i].get<uint64_t>();
    const bool last = i + 1 == log2.size();
    const std::string bound = last ? "+Inf" : absl::StrFormat("%.15g", static_cast<double>(uint64_t{1} << i) / 1e6);
    out->Sample("_bucket", {{"le", bound}}, sum);
  }
  // No _count, which OpenMetrics allows beside a _sum alone: that of the times is not kept.
}

void WritePager(const Json& pager, Writer* out) {
  out->Single(pager, "pool_used_bytes", "moult_pool_used_bytes", "gauge",
              "Room taken in the pool of offloaded pages, without what is being given back.");
  out->Single(pager, "pool_limit_bytes", "moult_pool_limit_bytes", "gauge", "Room that may be taken there.");
  out->Single(pager, "offloaded_bytes", "moult_offloaded_bytes", "gauge",
              "Pages of guest RAM that are in the pool.");
  out->Single(pager, "zero_bytes", "moult_offloaded_zero_bytes", "gauge",
              "Pages that are out and zero: no room in the pool.");
  out->Single(pager, "lost_pages", "moult_lost_pages", "gauge",
              "Pages that the pool did not give back, unresolved.");
  out->Single(pager, "faults", "moult_faults", "counter", "Faults on offloaded pages that were served.");
  out->Single(pager, "fault_pages", "moult_fault_pages", "counter",
              "Pages that faults brought in, neighbours among them.");
  out->Single(pager, "prefetched_pages", "moult_prefetched_pages", "counter",
              "Pages that recalls brought in.");
  out->Single(pager, "zeroed_pages", "moult_zeroed_pages", "counter",
              "Pages that the pool did not give, and that are zeros, as their function has ended.");
  if (pager.contains("fault_us_log2")) {
    WriteFaultTimes("moult_fault_seconds", "From the fault's message to its page.", pager["fault_us_log2"],
                    out);
  }
}

void WriteRemote(const Json& remote, Writer* out) {
  // The sources are those of an attach's bytes_by_source, where what was prefetched is of the pool.
  out->Family("moult_remote_bytes", "counter",
              "Pages of remote templates in windows: mapped of what the host had, read from the pool.");
  out->Sample({{"source", "cache"}}, remote["hit_bytes"].get<uint64_t>());
  out->Sample({{"source", "pool"}},
              remote["fetched_bytes"].get<uint64_t>() + remote["prefetched_bytes"].get<uint64_t>());
  out->Single(remote, "prefetched_bytes", "moult_remote_prefetched_bytes", "counter",
              "Of what was read from the pool, what nobody had asked for yet.");
  out->Single(remote, "prefetch_failures", "moult_remote_prefetch_failures", "counter",
              "Reads of what nobody had asked for yet that failed.");
  out->Single(remote, "unkept_bytes", "moult_remote_unkept_bytes", "counter",
              "Pages from the pool that the host's cache had no room for.");
  out->Single(remote, "faults", "moult_remote_faults", "counter",
              "Faults on pages of remote templates that were served.");
  out->Single(remote, "hits", "moult_remote_hits", "counter", "Faults on pages that the host had.");
  out->Single(remote, "lost_slots", "moult_remote_lost_slots", "counter",
              "Places in windows whose pool did not give a page.");
  if (remote.contains("fault_us_log2")) {
    WriteFaultTimes("moult_remote_fault_seconds", "From the message of a remote page's fault to that page.",
                    remote["fault_us_log2"], out);
  }
}

void WriteCache(const Json& cache, Writer* out) {
  out->Single(cache, "used_bytes", "moult_remote_cache_used_bytes", "gauge",
              "Pages of remote templates that the host keeps, for all VMs that share its cache.");
  out->Single(cache, "limit_bytes", "moult_remote_cache_limit_bytes", "gauge",
              "Room for templates there, each counted with its full size.");
  out->Single(cache, "templates", "moult_remote_cache_templates", "gauge", "Templates there.");
}

Labels LabelsOf(const Json& function) { return {{"function", function.dump()}}; }

// On their own: a name that becomes known changes no other series.
void WriteNames(const FunctionNames& names, Writer* out) {
  if (names.all().empty()) return;
  out->Family("moult_function", "info", "A function's name.");
  for (const auto& [function, name] : names.all()) out->Sample("_info", {{"function", std::to_string(function)}, {"name", name}}, 1);
}

void WriteFunctions(const Json& functions, Writer* out) {
  out->Family("moult_function_offloaded_bytes", "gauge",
              "Pages of the function that are out, zeros among them.");
  for (const Json& f : functions) {
    out->Sample(LabelsOf(f["function"]), f["offloaded_bytes"].get<uint64_t>());
  }
  out->Family("moult_function_faults", "counter", "Faults on pages of the function that were served.");
  for (const Json& f : functions) out->Sample(LabelsOf(f["function"]), f["faults"].get<uint64_t>());
}

// What the keeper counts, in the order of Keeper::Counts: its name there, and that of the step.
constexpr std::pair<const char*, const char*> kSteps[] = {
    {"freezes", "freeze"}, {"offloads", "offload"}, {"recalls", "recall"}, {"thaws", "thaw"}, {"ends", "end"}};

void WriteSteps(const Json& counts, const Labels& labels, Writer* out) {
  for (const auto& [key, step] : kSteps) {
    Labels all = labels;
    all.emplace_back("step", step);
    out->Sample(all, counts[key].get<uint64_t>());
  }
}

void WriteSweep(const Json& sweep, Writer* out) {
  out->Single(sweep, "functions", "moult_unswept_functions", "gauge", "Functions that have ended and still have room in the pool.");
  out->Single(sweep, "failures", "moult_sweep_failures", "counter", "Times that such room could not be given back.");
}

void WriteKeeper(const Json& keeper, Writer* out) {
  out->Family("moult_keeper_steps", "counter", "What policies had done to functions, those that are gone among them.");
  WriteSteps(keeper, {}, out);
  out->Single(keeper, "offloaded_bytes", "moult_keeper_offloaded_bytes", "counter", "Pages that policies had moved out, zeros among them.");
  out->Single(keeper, "failures", "moult_keeper_failures", "counter", "Steps of policies that failed.");
}

// Families of a sample or more for each function that has a policy.
void WritePolicies(const Json& policies, Writer* out) {
  const auto function = [](const Json& policy) { return LabelsOf(policy["function"]); };
  out->Family("moult_policy", "info", "The policy of a function.");
  for (const Json& policy : policies) {
    Labels labels = function(policy);
    labels.emplace_back("policy", Label(policy, "policy"));
    out->Sample("_info", labels, 1);
  }
  out->Family("moult_policy_state", "stateset", "What the policy's function is at.");
  for (const Json& policy : policies) {
    for (const char* state : {"idle", "running", "frozen", "leaving"}) {
      Labels labels = function(policy);
      labels.emplace_back("moult_policy_state", state);
      out->Sample(labels, Label(policy, "state") == state ? 1 : 0);
    }
  }
  out->Family("moult_policy_requests", "gauge", "Requests of the function that are under way.");
  for (const Json& policy : policies) out->Sample(function(policy), policy["requests"].get<uint64_t>());
  for (const auto& [key, name] : {std::pair{"resident_bytes", "moult_policy_resident_bytes"}, std::pair{"offloaded_bytes", "moult_policy_out_bytes"}}) {
    out->Family(name, "gauge", "Of each of the function's segments, when it was looked at last.");
    for (const Json& policy : policies) {
      for (const auto& [segment, bytes] : policy["segments"].items()) {
        Labels labels = function(policy);
        labels.emplace_back("segment", segment);
        out->Sample(labels, bytes[key].get<uint64_t>());
      }
    }
  }
  out->Family("moult_policy_steps", "counter", "What the policy had done to the function.");
  for (const Json& policy : policies) WriteSteps(policy["done"], function(policy), out);
  out->Family("moult_policy_offloaded_bytes", "counter", "Pages of the function that its policy had moved out, zeros among them.");
  for (const Json& policy : policies) out->Sample(function(policy), policy["done"]["offloaded_bytes"].get<uint64_t>());
  out->Family("moult_policy_failures", "counter", "Steps of the policy that failed.");
  for (const Json& policy : policies) out->Sample(function(policy), policy["done"]["failures"].get<uint64_t>());
}

}  // namespace

std::string OpenMetrics(const Json& status, const FunctionNames& names) {
  Writer out;
  out.Family("moult_up", "gauge", "Whether the VM's process has a VM to work on.");
  const auto vm = status.find("vm");
  out.Sample({}, vm != status.end() && !status.contains("fault") ? 1 : 0);
  if (vm == status.end()) return std::move(out).Take();
  out.Family("moult_vm", "info", "The VM, and who speaks for its guest.");
  out.Sample("_info",
             {{"name", Label(*vm, "name")},
              {"tenant", Label(*vm, "tenant")},
              {"version", Label(status, "version")},
              {"agent_version", Label(*vm, "agent_version")}},
             1);
  out.Single(*vm, "ram_bytes", "moult_ram_bytes", "gauge", "Guest RAM.");
  out.Single(*vm, "connections", "moult_connections", "gauge", "Open connections to the agent.");
  out.Single(*vm, "operations", "moult_operations_running", "gauge", "Operations under way.");
  const Json counters = vm->value("counters", Json::object());
  out.Single(counters, "operations", "moult_operations", "counter", "Operations that were begun.");
  out.Single(counters, "reclaimed_bytes", "moult_reclaimed_bytes", "counter",
             "Guest RAM of ended functions given back to the host.");
  if (vm->contains("windows")) WriteWindows((*vm)["windows"], &out);
  if (vm->contains("pager")) WritePager((*vm)["pager"], &out);
  if (vm->contains("remote")) WriteRemote((*vm)["remote"], &out);
  if (vm->contains("cache")) WriteCache((*vm)["cache"], &out);
  WriteNames(names, &out);
  if (vm->contains("offloaded")) WriteFunctions((*vm)["offloaded"], &out);
  if (const auto sweep = status.find("sweep"); sweep != status.end()) WriteSweep(*sweep, &out);
  if (const auto keeper = status.find("keeper"); keeper != status.end()) WriteKeeper(*keeper, &out);
  if (const auto policies = status.find("policies"); policies != status.end() && !policies->empty()) WritePolicies(*policies, &out);
  return std::move(out).Take();
}

}  // namespace moult::control
