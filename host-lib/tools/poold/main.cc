// SPDX-License-Identifier: Apache-2.0
//
// moult-poold: gives a folder of templates to other hosts, over RDMA.
#include <signal.h>
#include <sys/signalfd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "moult/base/status.h"
#include "pool/uri.h"
#include "server.h"

namespace {

absl::Status Serve(const std::string& store_path, const std::string& listen, const std::string& key_file, uint64_t limit_mib) {
  // Blocked before there is any thread, which would take them else.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const moult::UniqueFd stop(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!stop.valid()) return moult::ErrnoStatus("signalfd");

  MOULT_ASSIGN_OR_RETURN(const auto at, moult::host::ParsePoolUri("rdma://" + listen + "/"));
  if (at.nodes.size() != 1) return absl::InvalidArgumentError("--listen: give one address");
  MOULT_ASSIGN_OR_RETURN(auto keys, moult::host::rdma::ReadKeyFile(key_file));
  MOULT_ASSIGN_OR_RETURN(auto store, moult::host::Store::Open(store_path, /*create=*/false));
  MOULT_ASSIGN_OR_RETURN(const auto server, moult::poold::Server::Listen(at.nodes[0], std::move(keys), std::move(store), limit_mib << 20));
  std::printf("moult-poold: %s at %s\n", store_path.c_str(), at.nodes[0].text().c_str());
  std::fflush(stdout);
  return server->Run(stop.get());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Gives a folder of templates to other hosts over RDMA, until SIGTERM.", "moult-poold");
  std::string store, listen = "0.0.0.0:7471", keys;
  uint64_t limit_mib = 1024;
  app.add_option("store", store, "the folder, of a `file:` pool")->required();
  app.add_option("--listen", listen, "ADDRESS[:PORT] of an RDMA device")->capture_default_str();
  app.add_option("--keys", keys, "a file, mode 600, with a line TENANT KEY [read-only] for each tenant")->required();
  app.add_option("--limit-mib", limit_mib, "MiB of memory that templates may take; locked, so see ulimit -l")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 24));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Serve(store, listen, keys, limit_mib);
  if (status.ok()) return 0;
  std::fprintf(stderr, "moult-poold: %s\n", std::string(status.message()).c_str());
  return 1;
}
