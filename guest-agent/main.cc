// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <cstdio>

#include "image/version.h"
#include "rpc/log.h"
#include "rpc/server.h"

int main(int argc, char** argv) {
  CLI::App app("The agent of Moult in a guest: runs functions, captures and attaches them as the host asks.");
  std::string path = "/etc/moult/agent.conf";
  std::string unix_path;
  auto* config_option =
      app.add_option("--config", path, "configuration, a JSON object")->capture_default_str();
  app.add_option("--unix", unix_path, "listen on this unix socket as well");
  app.set_version_flag("--version", std::string(moult::engine::kVersion));
  CLI11_PARSE(app, argc, argv);
  auto config = moult::agent::ReadConfig(path, config_option->count() > 0);
  if (config.ok() && !unix_path.empty()) config->unix_path = unix_path;
  absl::Status status = config.status();
  if (status.ok()) {
    moult::agent::Server server(*std::move(config));
    status = server.Start();
    if (status.ok()) status = server.Run();
  }
  if (status.ok()) return 0;
  moult::agent::Log(std::string(status.message()));
  return 1;
}
