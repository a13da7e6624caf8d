// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_COMPLETION_H_
#define MOULT_TOOLS_MOULTCTL_COMPLETION_H_

#include <CLI/CLI.hpp>
#include <string>

namespace moult::ctl {

// A completion script for the shell, made from the commands and options of `app`. "" for a shell that is
// neither bash nor zsh nor fish.
std::string CompletionScript(const CLI::App& app, const std::string& shell);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_COMPLETION_H_
