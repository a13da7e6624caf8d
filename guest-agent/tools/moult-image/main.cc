// SPDX-License-Identifier: Apache-2.0
//
// moult-image: process images without a VM.
#include <algorithm>
#include <climits>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

#include "commands.h"
#include "image/version.h"
#include "output.h"

int main(int argc, char** argv) {
  using namespace moult::tool;
  std::signal(SIGCHLD, SIG_DFL);  // children of ours are waited for, whatever we inherited
  CLI::App app{"Takes a live process apart into a template, and makes running processes from it again."};
  app.set_version_flag("--version", moult::engine::kVersion);
  app.require_subcommand(1);
  const std::string exit_codes =
      "Exit codes: 0 ok, 1 internal error, 2 usage, 3 refused (unsupported, does not fit, taken, changed),\n"
      "4 not found, 5 no permission, 6 template damaged, 7 out of resources, 8 try again.";
  app.footer(exit_codes);  // the commands', too

  DumpArguments dump;
  CLI::App* dump_command = app.add_subcommand("dump", "Capture process PID as template DIR and end it");
  dump_command->add_option("PID", dump.pid, "the process")->required()->check(CLI::Range(1, INT_MAX));
  dump_command->add_option("DIR", dump.dir, "made, or an empty folder")->required();
  dump_command->add_flag("--leave-running", dump.leave_running, "let the process run on");
  dump_command->add_flag("--json", dump.json, "print the result as JSON");
  dump_command->footer("The ended process stays a zombie, with its pid and exit status, until its parent waits for it.\n" + exit_codes);

  RestoreArguments restore;
  CLI::App* restore_command = app.add_subcommand("restore", "Make a running process from template DIR; prints its pid");
  restore_command->add_option("DIR", restore.dir, "the template")->required();
  restore_command->add_option("--pidfile", restore.pidfile, "write the pids here, one a line");
  restore_command->add_flag("--sandbox", restore.sandbox, "in fresh pid, mount, ipc and time namespaces");
  restore_command->add_option("--count", restore.count, "how many (more than one needs --sandbox)")->check(CLI::Range(1, 10000));
  restore_command->add_flag("--json", restore.json, "print the result as JSON");

  ShowArguments show;
  CLI::App* show_command = app.add_subcommand("show", "Print what template DIR holds");
  show_command->add_option("DIR", show.dir, "the template")->required();
  show_command->add_flag("--json", show.json, "all of it, as JSON");

  VerifyArguments verify;
  CLI::App* verify_command = app.add_subcommand("verify", "Check every byte of template DIR, and that it fits this machine");
  verify_command->add_option("DIR", verify.dir, "the template")->required();
  verify_command->add_flag("--json", verify.json, "print the result as JSON");

  CheckArguments check;
  CLI::App* check_command = app.add_subcommand("check", "Tell what this kernel and user lack, and the remedy");
  check_command->add_flag("--json", check.json, "print the result as JSON");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const bool json = std::find(argv, argv + argc, std::string_view("--json")) != argv + argc;
    if (json && error.get_exit_code() != 0) return Fail(absl::InvalidArgumentError(absl::StrCat("wrong command line: ", error.what(), "; see --help")), json);
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  const auto run = [&] {
    if (dump_command->parsed()) return RunDump(dump);
    if (restore_command->parsed()) return RunRestore(restore);
    if (show_command->parsed()) return RunShow(show);
    if (verify_command->parsed()) return RunVerify(verify);
    return RunCheck(check);
  };
  const int code = run();
  // A result that could not be told is not a success.
  const absl::Status told = FlushStdout();
  if (!told.ok() && code == 0) return Fail(told, dump.json || restore.json || show.json || verify.json || check.json);
  return code;
}
