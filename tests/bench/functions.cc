// SPDX-License-Identifier: Apache-2.0
#include "functions.h"

#include <filesystem>

#include "command.h"

namespace moult::bench {

namespace fs = std::filesystem;
using nlohmann::json;

absl::StatusOr<std::vector<std::string>> CommandOf(const std::string& function) {
  if (function == "python") return std::vector<std::string>{"/usr/bin/python3", "/run/moult/functions/thumbnail.py"};
  if (function == "node") return std::vector<std::string>{"/usr/bin/node", "/run/moult/functions/api.js"};
  if (function == "java") return std::vector<std::string>{"/usr/bin/java", "-cp", "/run/moult/functions", "Primes"};
  return absl::InvalidArgumentError(absl::StrCat("there is no function ", function, "; there are python, node, java"));
}

absl::Status AddFunction(const std::string& function, const std::string& sources, const std::string& folder,
                         std::vector<std::string>* words) {
  std::string file = sources + (function == "python" ? "/thumbnail.py" : "/api.js");
  std::string name = fs::path(file).filename();
  if (function == "java") {
    const auto made = RunCommand({"/usr/bin/javac", "-d", folder, sources + "/Primes.java"});
    if (!made.ok()) return made.status();
    if (made->exit_code != 0) return absl::UnavailableError("javac: " + made->err);
    file = folder + "/Primes.class";
    name = "Primes.class";
  }
  words->insert(words->end(), {"--payload", absl::StrCat("functions/", name, "=", file)});
  return absl::OkStatus();
}

absl::StatusOr<std::string> StartFunction(const Guest& guest, const std::string& function) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> command, CommandOf(function));
  std::vector<std::string> run{"run", "--name", function, "--endpoint", "tcp:8080", "--ready", "http:/",
                               "--ready-timeout", "300000", "--"};
  run.insert(run.end(), command.begin(), command.end());
  MOULT_ASSIGN_OR_RETURN(const json started, guest.Ask(run));
  return FunctionOf(started);
}

absl::StatusOr<std::string> Answer(const Guest& guest, const std::string& function, int seed, double* us) {
  MOULT_ASSIGN_OR_RETURN(const json told, guest.Ask({"invoke", "--fail", function, absl::StrCat("/?seed=", seed)}));
  *us += told.at("total_us").get<double>();
  return told.contains("body") ? told.at("body").get<std::string>() : told.at("body_base64").get<std::string>();
}

}  // namespace moult::bench
