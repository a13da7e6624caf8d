// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_CLI_H_
#define MOULT_TOOLS_MOULTCTL_CLI_H_

#include <CLI/CLI.hpp>
#include <string>

#include "commands.h"

namespace moult::ctl {

// The command line: what there is to say, and who does it.
class Cli {
 public:
  Cli();
  // Returns the exit code.
  int Run(int argc, char** argv);

 private:
  CLI::App* Add(CLI::App& parent, const char* name, const char* about, const char* example, Command command);
  void AddFunction(CLI::App* command);
  void AddTemplate(CLI::App* command);
  void AddPages(CLI::App* command);
  void AddQuestions();
  void AddLedger();
  void AddRun();
  void AddInvoke();
  void AddSwaps();
  void AddTemplates();
  void AddFrom(CLI::App* command);
  void AddPools();
  void AddVm();
  void AddCompletion();

  CLI::App app_;
  Arguments arguments_;
  InvokeArguments invoke_;
  VmArguments vm_;
  PoolArguments pool_;
  std::string shell_;
  Command command_ = nullptr;
  CLI::App* invoke_command_ = nullptr;
  CLI::App* vm_command_ = nullptr;
  CLI::App* pool_command_ = nullptr;
  CLI::App* completion_command_ = nullptr;
};

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_CLI_H_
