// SPDX-License-Identifier: Apache-2.0
#include "json/json.h"

#include "absl/strings/ascii.h"

namespace moult::host {

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json ToJson(const rpc::FunctionInfoT& info) {
  Json json = {{"id", info.id},
               {"name", info.spec->name},
               {"state", absl::AsciiStrToLower(rpc::EnumNameFunctionState(info.state))},
               {"pid", info.pid},
               {"inner_pid", info.inner_pid},
               {"generation", info.generation},
               {"template", info.template_name},
               {"started_ms", info.started_realtime_ms},
               {"memory_bytes", info.memory_bytes},
               {"anon_bytes", info.anon_bytes},
               {"shmem_bytes", info.shmem_bytes},
               {"file_bytes", info.file_bytes},
               {"kernel_bytes", info.kernel_bytes},
               {"faults", info.faults},
               {"spec", ToJson(*info.spec)}};
  const bool over = info.state == rpc::FunctionState::Ended || info.state == rpc::FunctionState::Lost;
  if (over) json["exit_status"] = info.exit_status;
  if (over) json["end_reason"] = info.end_reason;
  return json;
}

Json ToJson(const rpc::HelloReplyT& hello) {
  Json windows = Json::array();
  for (const auto& window : hello.windows) {
    windows.push_back({{"gpa", window->gpa}, {"size", window->size}});
  }
  return {{"version", hello.version},      {"agent_version", hello.agent_version},
          {"features", hello.features},    {"verbs", hello.verbs},
          {"boot_id", hello.boot_id},      {"kernel_release", hello.kernel_release},
          {"windows", std::move(windows)}, {"struct_pages", hello.struct_pages},
          {"ram_bytes", hello.ram_bytes}};
}

Json ToJson(const PagerStats& stats) {
  return {{"offloaded_bytes", stats.total.offloaded_bytes},
          {"zero_bytes", stats.total.zero_bytes},
          {"lost_pages", stats.total.lost_pages},
          {"faults", stats.total.faults},
          {"fault_pages", stats.total.fault_pages},
          {"prefetched_pages", stats.total.prefetched_pages},
          {"zeroed_pages", stats.total.zeroed_pages},
          {"pool_used_bytes", stats.pool_used_bytes},
          {"pool_limit_bytes", stats.pool_limit_bytes},
          {"fault_us_log2", stats.fault_us}};
}

Json ToJson(const RemoteStats& stats) {
  return {{"faults", stats.faults},
          {"hits", stats.hits},
          {"hit_bytes", stats.hit_bytes},
          {"fetched_bytes", stats.fetched_bytes},
          {"prefetched_bytes", stats.prefetched_bytes},
          {"prefetch_failures", stats.prefetch_failures},
          {"unkept_bytes", stats.unkept_bytes},
          {"lost_slots", stats.lost_slots},
          {"fault_us_log2", stats.fault_us}};
}

Json ToJson(const CacheUse& use) {
  return {{"used_bytes", use.used_bytes}, {"limit_bytes", use.limit_bytes}, {"templates", use.templates}};
}

Json ToJson(const Template& content) {
  const image::ManifestT& manifest = content.reader->manifest();
  return {{"name", content.name},
          {"tenant", manifest.tenant},
          {"program", manifest.name},
          {"created_ns", manifest.created_realtime_ns},
          {"user_state_bytes", manifest.user_state_bytes},
          {"pages_bytes", manifest.pages->size},
          {"image_bytes", manifest.image->size},
          {"threads", manifest.threads},
          {"vmas", manifest.vmas},
          {"fds", manifest.fds},
          {"kernel_release", manifest.requirements->kernel_release},
          {"tool_version", manifest.tool_version},
          {"function", content.spec != nullptr ? ToJson(*content.spec) : Json()},
          {"digest", content.digest}};
}

Json ToJsonInFull(const Template& content) {
  const image::RequirementsT& needs = *content.reader->manifest().requirements;
  Json json = ToJson(content);
  json["requirements"] = {{"arch", needs.arch},
                          {"page_size", needs.page_size},
                          {"xsave_features", needs.xsave_features},
                          {"xsave_size", needs.xsave_size},
                          {"cpu_flags", needs.cpu_flags}};
  json["notes"] = content.reader->image().notes;
  return json;
}

}  // namespace moult::host
