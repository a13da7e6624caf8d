// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULT_IMAGE_COMMANDS_H_
#define MOULT_TOOLS_MOULT_IMAGE_COMMANDS_H_

#include <sys/types.h>

#include <string>

namespace moult::tool {

struct DumpArguments {
  pid_t pid = 0;
  std::string dir;
  bool leave_running = false;
  bool json = false;
};
struct RestoreArguments {
  std::string dir;
  std::string pidfile;
  bool sandbox = false;
  int count = 1;
  bool json = false;
};
struct ShowArguments {
  std::string dir;
  bool json = false;
};
struct VerifyArguments {
  std::string dir;
  bool json = false;
};
struct CheckArguments {
  bool json = false;
};

// Each prints its result or error and returns the exit code.
int RunDump(const DumpArguments& arguments);
int RunRestore(const RestoreArguments& arguments);
int RunShow(const ShowArguments& arguments);
int RunVerify(const VerifyArguments& arguments);
int RunCheck(const CheckArguments& arguments);

}  // namespace moult::tool

#endif  // MOULT_TOOLS_MOULT_IMAGE_COMMANDS_H_
