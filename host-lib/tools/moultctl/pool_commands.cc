// SPDX-License-Identifier: Apache-2.0
//
// moultctl pool: by libmoult in this process, without a VM.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "commands.h"
#include "control/methods.h"
#include "moult/base/status.h"
#include "moult/moult.h"
#include "moult/pool.h"
#include "output.h"
#include "progress.h"

namespace moult::ctl {
namespace {

struct PoolAnswer {
  Json result;
  std::string text;
};

struct Transfer {
  std::mutex mutex;  // guards the rest
  uint64_t done = 0;
  uint64_t total = 0;
};

// What a thread has read and written until now; empty: the kernel does not count it.
std::optional<uint64_t> MovedBy(pid_t thread) {
  std::ifstream file(absl::StrCat("/proc/self/task/", thread, "/io"));
  uint64_t all = 0;
  int found = 0;
  for (std::string name; file >> name;) {
    uint64_t bytes = 0;
    if (!(file >> bytes)) break;
    if (name != "rchar:" && name != "wchar:") continue;
    all += bytes;
    ++found;
  }
  return found == 2 ? std::optional(all) : std::nullopt;
}

struct Pool {
  std::atomic<pid_t> thread{0};  // that does it
  const PoolArguments& arguments;
  moult_pool* pool = nullptr;
  moult_store* store = nullptr;
  Transfer transfer;

  explicit Pool(const PoolArguments& given) : arguments(given) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    moult_pool_close(pool);
    moult_store_close(store);
  }

  absl::Status Open() {
    moult_pool_options options = MOULT_INIT(options);
    options.tenant = arguments.where.tenant.c_str();
    options.key_file = arguments.key.empty() ? nullptr : arguments.key.c_str();
    options.user = &transfer;
    options.progress = [](void* user, uint64_t done, uint64_t total) {
      auto* const to = static_cast<Transfer*>(user);
      const std::lock_guard<std::mutex> lock(to->mutex);
      to->done = done;
      to->total = total;
    };
    return moult_pool_open(arguments.uri.c_str(), &options, &pool) < 0 ? control::LastError()
                                                                       : absl::OkStatus();
  }

  absl::Status OpenStore() {
    if (arguments.where.store.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("pool ", arguments.verb, ": which store? Give --store FOLDER"));
    }
    moult_store_options options = MOULT_INIT(options);
    options.flags = arguments.verb == "pull" ? MOULT_STORE_CREATE : 0;
    return moult_store_open(arguments.where.store.c_str(), &options, &store) < 0 ? control::LastError()
                                                                                 : absl::OkStatus();
  }
};

absl::StatusOr<Json> TakePoolJson(int result, char* text) {
  if (result < 0) return control::LastError();
  absl::StatusOr<Json> json = control::ParseJson(text);
  moult_free(text);
  return json;
}

absl::StatusOr<PoolAnswer> ListInPool(Pool& on) {
  char* text = nullptr;
  const int result = moult_pool_list_json(on.pool, &text);
  MOULT_ASSIGN_OR_RETURN(Json list, TakePoolJson(result, text));
  std::vector<std::vector<std::string>> rows{{"NAME", "BYTES", "TENANT", "DIGEST"}};
  for (const Json& one : list) {
    const std::string digest = Text(one, "digest");
    rows.push_back({Text(one, "name"), digest.empty() ? "-" : Bytes(Number(one, "bytes")),
                    Text(one, "tenant").empty() ? "-" : Text(one, "tenant"),
                    digest.empty() ? "damaged" : digest});
  }
  return PoolAnswer{{{"templates", std::move(list)}}, Table(rows, {1})};
}

absl::StatusOr<PoolAnswer> StatInPool(Pool& on) {
  char* text = nullptr;
  const int result = moult_pool_stat_json(on.pool, &text);
  MOULT_ASSIGN_OR_RETURN(Json stat, TakePoolJson(result, text));
  std::string line =
      absl::StrCat(Text(stat, "uri"), ": ", Number(stat, "templates"), " templates, ",
                   Bytes(Number(stat, "used_bytes")), " of ", Bytes(Number(stat, "limit_bytes")));
  if (Number(stat, "held_bytes") != 0)
    absl::StrAppend(&line, ", ", Bytes(Number(stat, "held_bytes")), " of it removed and still in use");
  if (!Text(stat, "medium").empty()) absl::StrAppend(&line, "; ", Text(stat, "medium"));
  if (Number(stat, "lend_limit_bytes") != 0)
    absl::StrAppend(&line, "; ", Bytes(Number(stat, "lent_bytes")), " lent to VMs of this tenant, of ", Bytes(Number(stat, "lend_limit_bytes")), " for all");
  line += "\n";
  return PoolAnswer{std::move(stat), std::move(line)};
}

// What has a name and no answer but that it was done.
absl::StatusOr<PoolAnswer> NamedInPool(Pool& on, int result, const char* done) {
  if (result < 0) return control::LastError();
  const PoolArguments& a = on.arguments;
  return PoolAnswer{{{"uri", a.uri}, {"name", a.name}, {"done", a.verb}},
                    absl::StrCat(a.name, ": ", done, "\n")};
}

absl::StatusOr<PoolAnswer> PushInPool(Pool& on) {
  MOULT_RETURN_IF_ERROR(on.OpenStore());
  return NamedInPool(on, moult_pool_push(on.pool, on.store, on.arguments.name.c_str()), "pushed");
}
absl::StatusOr<PoolAnswer> PullInPool(Pool& on) {
  MOULT_RETURN_IF_ERROR(on.OpenStore());
  return NamedInPool(on, moult_pool_pull(on.pool, on.arguments.name.c_str(), on.store), "pulled");
}
absl::StatusOr<PoolAnswer> RemoveInPool(Pool& on) {
  return NamedInPool(on, moult_pool_remove(on.pool, on.arguments.name.c_str()), "removed");
}
absl::StatusOr<PoolAnswer> VerifyInPool(Pool& on) {
  return NamedInPool(on, moult_pool_verify(on.pool, on.arguments.name.c_str()), "whole");
}

constexpr struct {
  const char* verb;
  absl::StatusOr<PoolAnswer> (*run)(Pool&);
} kVerbs[] = {{"ls", ListInPool},   {"stat", StatInPool}, {"push", PushInPool},
              {"pull", PullInPool}, {"rm", RemoveInPool}, {"verify", VerifyInPool}};

absl::StatusOr<PoolAnswer> Format(Pool& on) {
  moult_pool_format_options options = MOULT_INIT(options);
  options.bytes = on.arguments.size_mib << 20;
  options.flags = on.arguments.force ? MOULT_POOL_FORMAT_FORCE : 0;
  if (moult_pool_format(on.arguments.uri.c_str(), &options) < 0) return control::LastError();
  MOULT_RETURN_IF_ERROR(on.Open());
  return StatInPool(on);
}

absl::StatusOr<PoolAnswer> OnPool(Pool& on) {
  if (on.arguments.verb == "format") return Format(on);
  MOULT_RETURN_IF_ERROR(on.Open());
  for (const auto& one : kVerbs) {
    if (on.arguments.verb == one.verb) return one.run(on);
  }
  return absl::InvalidArgumentError("no such command");
}

}  // namespace

namespace {

absl::Status Silent(const PoolArguments& arguments) {
  return absl::UnavailableError(absl::StrCat(
      "pool ", arguments.verb, arguments.name.empty() ? "" : " ", arguments.name, ": pool ", arguments.uri,
      " does not answer: nothing has been read or written for ", arguments.silence_s,
      " s (--silence-s); look at its file system. A template that was on its way is there whole, or not at all (moultctl pool ls); what "
      "was begun is removed when the folder is opened next"));
}

}  // namespace

int RunPool(const PoolArguments& arguments) {
  Pool pool(arguments);
  // On a thread of its own, so that the time goes on where a pool does not tell how far it is.
  std::future<absl::StatusOr<PoolAnswer>> running =
      std::async(std::launch::async, [&pool] {
    pool.thread = gettid();
    return OnPool(pool);
  });
  Progress progress(absl::StrCat("pool ", arguments.verb));
  // No deadline ends a system call in a file system that hangs, so this process ends instead.
  const bool may_hang = absl::StartsWith(arguments.uri, "file:");
  std::optional<uint64_t> moved;
  auto since = std::chrono::steady_clock::now();
  while (running.wait_for(std::chrono::milliseconds(Progress::kEveryMs)) != std::future_status::ready) {
    const auto now = std::chrono::steady_clock::now();
    const std::optional<uint64_t> by_now = MovedBy(pool.thread);
    if (!may_hang || !by_now.has_value() || by_now != std::exchange(moved, by_now)) since = now;
    if (arguments.silence_s != 0 && now - since >= std::chrono::seconds(arguments.silence_s)) {
      progress.Wipe();
      const int code = Fail(Silent(arguments), arguments.json);
      std::fflush(nullptr);
      std::cout.flush();
      _exit(code);  // the thread cannot be waited for
    }
    const std::lock_guard<std::mutex> lock(pool.transfer.mutex);
    if (pool.transfer.total != 0)
      progress.Tick(pool.transfer.done, pool.transfer.total);
    else
      progress.Tick();
  }
  progress.Wipe();
  const absl::StatusOr<PoolAnswer> done = running.get();
  if (!done.ok()) return Fail(done.status(), arguments.json);
  return Print(done->result, done->text, arguments.json);
}

}  // namespace moult::ctl
