// SPDX-License-Identifier: Apache-2.0
//
// moult-pool-probe: what a memory node gives to this host, and how fast. For who sets one up, and for tests.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <string>

#include "moult/base/status.h"
#include "probe.h"

int main(int argc, char** argv) {
  using moult::probe::Target;
  CLI::App app("Looks at a memory node from here.", "moult-pool-probe");
  app.require_subcommand(1);
  app.fallthrough();
  Target target;
  std::string keys, tenant, name, store;
  unsigned seconds = 10, reads = 500, mib = 4, rounds = 1;
  unsigned timeout_ms = 10000;
  app.add_option("--uri", target.uri, "rdma://HOST[:PORT][,HOST[:PORT]]/")->required();
  app.add_option("--keys", keys, "the file with this tenant's key, mode 600")->required();
  app.add_option("--tenant", tenant, "whose templates; none: those without a tenant");
  app.add_option("--connections", target.connections)->capture_default_str();
  app.add_option("--timeout-ms", timeout_ms, "of each call")->capture_default_str()->check(CLI::Range(1u, 3600000u));

  std::function<absl::Status()> work;
  const auto add = [&](const char* command, const char* help, std::function<absl::Status()> does, bool named) {
    CLI::App* const sub = app.add_subcommand(command, help);
    if (named) sub->add_option("template", name)->required();
    sub->callback([&work, does] { work = does; });
    return sub;
  };
  add("ls", "the tenant's templates", [&] { return moult::probe::List(target); }, false);
  add("stat", "room", [&] { return moult::probe::Use(target); }, false);
  add("verify", "read all of a template and hold it against its digests", [&] { return moult::probe::Verify(target, name); }, true);
  add("rm", "remove a template", [&] { return moult::probe::Remove(target, name); }, true);
  add("push", "copy a template there", [&] { return moult::probe::Push(target, store, name); }, true)
      ->add_option("--store", store, "the folder that it is in")
      ->required();
  add("watch", "read pages here and there, and tell when that fails, for so long or until interrupted (Ctrl-C)",
      [&] { return moult::probe::Watch(target, name, std::chrono::seconds(seconds)); }, true)
      ->add_option("--seconds", seconds)
      ->capture_default_str();
  const auto sized = [&](CLI::App* sub) {
    sub->add_option("--mib", mib, "MiB of pages")->capture_default_str()->check(CLI::Range(1u, 1u << 20));
    return sub;
  };
  sized(add("pages", "borrow memory, write pages of guest RAM there, read them back",
            [&] { return moult::probe::LentPages(target, mib, rounds); }, false))
      ->add_option("--rounds", rounds)
      ->capture_default_str();
  sized(add("watch-pages", "the same, reading for so long or until interrupted, and tell when that fails",
            [&] { return moult::probe::WatchLentPages(target, mib, std::chrono::seconds(seconds)); }, false))
      ->add_option("--seconds", seconds)
      ->capture_default_str();
  add("measure", "compare with the bare verbs", [&] { return moult::probe::Measure(target, name, reads); }, true)
      ->add_option("--reads", reads, "single pages in each round")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1000000u));
  add("faults", "what a fault takes, compared with a bare READ and a bare UFFDIO_COPY",
      [&] { return moult::probe::Faults(target, name, rounds); }, true)
      ->add_option("--rounds", rounds)
      ->capture_default_str();
  moult::probe::AttachOptions attach;
  CLI::App* const attaching = add("attach", "show a template in plain memory and touch it, compared with one that is mapped",
                                  [&] { return moult::probe::Attach(target, name, attach); }, true);
  attaching->add_option("--store", attach.store, "a folder that has the template, or that it is pulled to")->required();
  attaching->add_option("--also", attach.also, "pools that have it, too: file:, dax:");
  attaching->add_option("--rounds", attach.rounds)->capture_default_str();
  attaching->add_option("--prefetch-mib", attach.prefetch_mib, "MiB a second that are fetched behind what is touched")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  CLI11_PARSE(app, argc, argv);

  target.timeout = std::chrono::milliseconds(timeout_ms);
  absl::Status status = [&] {
    MOULT_ASSIGN_OR_RETURN(const auto all, moult::host::rdma::ReadKeyFile(keys));
    MOULT_ASSIGN_OR_RETURN(target.key, moult::host::rdma::FindKey(all, tenant));
    target.key_file = keys;
    return work();
  }();
  if (status.ok()) return 0;
  std::fprintf(stderr, "moult-pool-probe: %s\n", status.ToString().c_str());
  return 1;
}
