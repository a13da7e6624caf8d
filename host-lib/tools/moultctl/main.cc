// SPDX-License-Identifier: Apache-2.0
//
// moultctl: commands a VM that has Moult in it.
#include <csignal>
#include <cstdio>

#include "cli.h"
#include "moult/base/status.h"
#include "output.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a VM that goes away is an error to report, not an end
  moult::ctl::Cli cli;
  const int code = cli.Run(argc, argv);
  // A result that could not be told is not a success.
  if (std::fflush(stdout) != 0 && code == 0) return moult::ctl::Fail(moult::ErrnoStatus("write the result to stdout"), false);
  return code;
}
