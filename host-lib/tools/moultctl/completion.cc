// SPDX-License-Identifier: Apache-2.0
#include "completion.h"

#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace moult::ctl {
namespace {

struct Node {
  std::string path;                                           // "templates show"
  std::vector<std::pair<std::string, std::string>> commands;  // and what they do
  std::set<std::string> options;
};

void Collect(const CLI::App& app, const std::string& path, std::vector<Node>* nodes) {
  Node node{.path = path, .commands = {}, .options = {}};
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) node.options.insert("--" + name);
  }
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* command : commands)
    node.commands.emplace_back(command->get_name(), command->get_description());
  nodes->push_back(std::move(node));
  for (const CLI::App* command : commands)
    Collect(*command, path.empty() ? command->get_name() : path + " " + command->get_name(), nodes);
}

std::string Words(const Node& node) {
  std::vector<std::string> words(node.options.begin(), node.options.end());
  for (const auto& [name, about] : node.commands) words.push_back(name);
  return absl::StrJoin(words, " ");
}

// The path is the words so far that are names of commands; what comes after it decides what may follow.
std::string Bash(const std::vector<Node>& nodes) {
  std::string cases;
  std::set<std::string> names;
  for (const Node& node : nodes) {
    absl::StrAppend(&cases, "    '", node.path, "') words='", Words(node), "' ;;\n");
    for (const auto& [name, about] : node.commands) names.insert(name);
  }
  return absl::StrCat(
      "_moultctl() {\n  local word path='' words=''\n  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n "
      "   case $word in\n      ",
      absl::StrJoin(names, "|"), ") path=\"${path:+$path }$word\" ;;\n    esac\n  done\n  case $path in\n",
      cases,
      "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n}\ncomplete -o "
      "default -F _moultctl moultctl\n");
}

std::string Fish(const std::vector<Node>& nodes) {
  std::string text;
  for (const Node& node : nodes) {
    const std::string when = node.path.empty() ? "__fish_use_subcommand"
                                               : absl::StrCat("__fish_seen_subcommand_from ",
                                                              node.path.substr(node.path.rfind(' ') + 1));
    for (const auto& [name, about] : node.commands) {
      absl::StrAppend(&text, "complete -c moultctl -n '", when, "' -a ", name, " -d '",
                      absl::StrReplaceAll(about, {{"'", "\\'"}}), "'\n");
    }
    for (const std::string& option : node.options) {
      absl::StrAppend(&text, "complete -c moultctl -n '", when, "' -l ", option.substr(2), "\n");
    }
  }
  return text;
}

}  // namespace

std::string CompletionScript(const CLI::App& app, const std::string& shell) {
  std::vector<Node> nodes;
  Collect(app, "", &nodes);
  if (shell == "bash") return Bash(nodes);
  // zsh understands bash's, once told so.
  if (shell == "zsh")
    return absl::StrCat("#compdef moultctl\nautoload -U +X bashcompinit && bashcompinit\n", Bash(nodes));
  if (shell == "fish") return Fish(nodes);
  return "";
}

}  // namespace moult::ctl
