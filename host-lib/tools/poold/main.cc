// SPDX-License-Identifier: Apache-2.0
//
// moult-poold: gives the templates of a folder, or of a dax: pool, to other hosts, and lends them memory, over RDMA.
#include <signal.h>
#include <sys/signalfd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "backing.h"
#include "moult/base/status.h"
#include "pool/uri.h"
#include "server.h"

namespace {

// `place` is the name of a folder, file:FOLDER or dax:DEVICE.
absl::StatusOr<std::unique_ptr<moult::poold::Backing>> Open(const std::string& place) {
  const bool named = place.find(':') != std::string::npos && place[0] != '/' && place[0] != '.';
  std::string folder = place;
  if (named) {
    MOULT_ASSIGN_OR_RETURN(const auto uri, moult::host::ParsePoolUri(place));
    if (uri.scheme == "dax") return moult::poold::BackByDax(uri.path);
    if (uri.scheme != "file") return absl::InvalidArgumentError(place + ": templates lie in a folder, or in a dax: pool");
    folder = uri.path;
  }
  MOULT_ASSIGN_OR_RETURN(auto store, moult::host::Store::Open(folder, /*create=*/false));
  return moult::poold::BackByFolder(std::move(store));
}

absl::Status Serve(const std::string& place, const std::string& listen, const std::string& key_file, const moult::poold::Limits& limits) {
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
  MOULT_ASSIGN_OR_RETURN(auto backing, Open(place));
  MOULT_ASSIGN_OR_RETURN(const auto server, moult::poold::Server::Listen(at.nodes[0], std::move(keys), std::move(backing), limits));
  std::printf("moult-poold: %s at %s\n", place.c_str(), at.nodes[0].text().c_str());
  std::fflush(stdout);
  return server->Run(stop.get());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Gives the templates of a folder, or of byte-addressable memory, to other hosts, and lends them memory, over RDMA, until SIGTERM.", "moult-poold");
  std::string store, listen = "0.0.0.0:7471", keys;
  uint64_t limit_mib = 1024, lend_mib = 0, grace_s = 600;
  app.add_option("store", store, "the folder of a `file:` pool, or dax:DEVICE, whose pages are read where they lie")->required();
  app.add_option("--listen", listen, "ADDRESS[:PORT] of an RDMA device")->capture_default_str();
  app.add_option("--keys", keys, "a file, mode 600, with a line TENANT KEY [read-only] for each tenant")->required();
  app.add_option("--limit-mib", limit_mib, "MiB of memory that templates of a folder, and pushes, may take; locked, so see ulimit -l")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 24));
  app.add_option("--lend-mib", lend_mib, "MiB of memory beside them, lent to VMs for offloaded pages, locked likewise; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 24));
  app.add_option("--lend-grace-s", grace_s, "seconds without a connection of its VM after which lent memory is taken back")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 24));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Serve(store, listen, keys, {limit_mib << 20, lend_mib << 20, std::chrono::seconds(grace_s)});
  if (status.ok()) return 0;
  std::fprintf(stderr, "moult-poold: %s\n", std::string(status.message()).c_str());
  return 1;
}
