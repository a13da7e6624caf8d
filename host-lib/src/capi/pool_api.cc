// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>

#include "capi/capi.h"
#include "json/json.h"
#include "moult/pool.h"
#include "pool/transfer.h"
#include "pool/uri.h"

using moult::capi::GiveText;
using moult::capi::Guarded;
using moult::capi::TakeOptions;
using moult::capi::Text;
using moult::host::Json;
using moult::host::TemplatePool;

struct moult_pool {
  std::shared_ptr<TemplatePool> pool;
  uint32_t timeout_ms;
  moult::host::TransferProgress progress;
};

namespace {

using Clock = TemplatePool::Clock;

constexpr uint32_t kQuickMs = 60'000;
constexpr uint32_t kMovesPagesMs = 24 * 3600 * 1000;

Clock::time_point Deadline(const moult_pool& pool, uint32_t otherwise_ms) {
  return Clock::now() + std::chrono::milliseconds(pool.timeout_ms != 0 ? pool.timeout_ms : otherwise_ms);
}

// `call` with the pool, when it and the names are there.
template <typename F>
int On(moult_pool* pool, std::initializer_list<const void*> needed, F call) {
  return Guarded([&]() -> absl::Status {
    if (pool == nullptr) return absl::InvalidArgumentError("pool is NULL");
    for (const void* one : needed) {
      if (one == nullptr) return absl::InvalidArgumentError("name or store is NULL");
    }
    return call();
  });
}

}  // namespace

extern "C" {

int moult_pool_open(const char* uri, const struct moult_pool_options* options, struct moult_pool** pool) {
  return Guarded([&]() -> absl::Status {
    if (uri == nullptr || pool == nullptr) return absl::InvalidArgumentError("uri or pool is NULL");
    *pool = nullptr;
    moult_pool_options ours{};
    if (options != nullptr) {
      MOULT_ASSIGN_OR_RETURN(ours, TakeOptions(options, "moult_pool_options"));
    }
    MOULT_ASSIGN_OR_RETURN(auto opened,
                           moult::host::OpenTemplatePool(uri, {Text(ours.tenant), Text(ours.key_file)}));
    auto holder = std::make_unique<moult_pool>(moult_pool{std::move(opened), ours.timeout_ms, {}});
    if (ours.progress != nullptr) {
      holder->progress = [progress = ours.progress, user = ours.user](uint64_t done, uint64_t total) {
        progress(user, done, total);
      };
    }
    *pool = holder.release();
    return absl::OkStatus();
  });
}

int moult_pool_format(const char* uri, const struct moult_pool_format_options* options) {
  return Guarded([&]() -> absl::Status {
    if (uri == nullptr) return absl::InvalidArgumentError("uri is NULL");
    moult_pool_format_options ours{};
    if (options != nullptr) {
      MOULT_ASSIGN_OR_RETURN(ours, TakeOptions(options, "moult_pool_format_options"));
    }
    if ((ours.flags & ~MOULT_POOL_FORMAT_FORCE) != 0)
      return absl::InvalidArgumentError("flags: has unknown bits");
    const uint32_t ms = ours.timeout_ms != 0 ? ours.timeout_ms : kQuickMs;
    return moult::host::FormatTemplatePool(uri, ours.bytes, (ours.flags & MOULT_POOL_FORMAT_FORCE) != 0,
                                           Clock::now() + std::chrono::milliseconds(ms));
  });
}

void moult_pool_close(struct moult_pool* pool) { delete pool; }

int moult_pool_list_json(struct moult_pool* pool, char** json) {
  return On(pool, {}, [&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(const auto entries, pool->pool->List(Deadline(*pool, kQuickMs)));
    Json list = Json::array();
    for (const moult::host::PoolEntry& entry : entries) {
      list.push_back(
          {{"name", entry.name}, {"digest", entry.digest}, {"tenant", entry.tenant}, {"bytes", entry.bytes}});
    }
    return GiveText(moult::host::Dump(list), json);
  });
}

int moult_pool_stat_json(struct moult_pool* pool, char** json) {
  return On(pool, {}, [&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(const moult::host::PoolUse use, pool->pool->Use(Deadline(*pool, kQuickMs)));
    Json stat = {{"uri", pool->pool->uri()},
                 {"used_bytes", use.used_bytes},
                 {"limit_bytes", use.limit_bytes},
                 {"templates", use.templates}};
    if (!use.medium.empty()) {
      stat["medium"] = use.medium;
      stat["held_bytes"] = use.held_bytes;
    }
    if (use.lend_limit_bytes != 0) {
      stat["lent_bytes"] = use.lent_bytes;
      stat["lend_limit_bytes"] = use.lend_limit_bytes;
    }
    return GiveText(moult::host::Dump(stat), json);
  });
}

int moult_pool_push(struct moult_pool* pool, struct moult_store* store, const char* name) {
  return On(pool, {store, name}, [&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(const auto content, store->store->Read(name));
    return pool->pool->Push(*content, Deadline(*pool, kMovesPagesMs), pool->progress);
  });
}

int moult_pool_pull(struct moult_pool* pool, const char* name, struct moult_store* store) {
  return On(pool, {store, name}, [&] {
    return moult::host::Pull(*pool->pool, name, store->store.get(), Deadline(*pool, kMovesPagesMs),
                             pool->progress);
  });
}

int moult_pool_remove(struct moult_pool* pool, const char* name) {
  return On(pool, {name}, [&] { return pool->pool->Remove(name, Deadline(*pool, kQuickMs)); });
}

int moult_pool_verify(struct moult_pool* pool, const char* name) {
  return On(pool, {name}, [&] {
    return moult::host::VerifyRemote(*pool->pool, name, Deadline(*pool, kMovesPagesMs), pool->progress);
  });
}

}  // extern "C"
